"""How a grid scales: on paper, with sleeping tasks on real workers, and measured on this machine.

    python benchmarks/cluster.py paper [PROFILE ...]          hours on 1, 8 and 64 workers by `ims3 plan`
    python benchmarks/cluster.py sleep imagewoof              the same units, asleep, on 64 workers of Dask
    python benchmarks/cluster.py grid FOLDER --workers 1 2    a grid in fresh clones: plain, and by `ims3 repro`

`paper` runs the schedule by a clock of its own: every unit takes its share of the planned seconds of its stage, DVC a
second to assemble one. `sleep` has the driver and Dask do it, `--scale` times as fast. `grid` prints seconds in all,
seconds in students and refinement, and whether every output has the same bytes; give it an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import yaml

from ims3core.pipeline import profiles, worker
from ims3core.pipeline.driver import Driver, Job, Work
from ims3core.pipeline.graph import Graph
from ims3core.pipeline.progress import Board
from ims3core.pipeline.schedule import Schedule
from ims3core.planning import costs as planning
from ims3core.planning.rates import assumed_rates, seconds
from ims3core.planning.sizes import dataset_size

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("imagewoof", "imageidc", "imagenet100", "imagenet1k")
ASSEMBLY, COUNTS = 1.0, (1, 8, 64)


@cache
def plan(profile: str, tflops: float) -> tuple[dict, dict, dict, float]:
    """Edges, seconds of a unit and number of units by address; bytes on disk."""
    params = profiles.read(ROOT, profile)
    nowhere = Path(tempfile.gettempdir(), "no-such-project")
    planner, graph = planning._Planner(params, dataset_size(params, nowhere)), Graph(params.tree)
    rates = assumed_rates(tflops)
    units, each, disk = {}, {}, 0.0
    for node in graph.nodes:
        cost = planner.cost(node)
        count = units[node.address] = units_of(planner, node)
        each[node.address] = max(0.0, seconds(cost, rates) - cost.seconds) / max(1, count)
        disk += cost.disk
    return graph.edges(), each, units, disk


def units_of(planner, node) -> int:
    """The units of a stage; none where DVC runs it."""
    params, grid, stage = planner.params, planner.params.eval, node.stage
    if stage == "candidates":
        return 0 if params.pool(node.row).source.indexed else len(planner.shards(node.row))
    if stage == "features":
        indexed = params.pool(node.row).source.indexed
        return -(-planner.size.train // params.features.batch_size) if indexed else len(planner.shards(node.row))
    if stage == "guides":
        return planner.size.classes if params.guide(node.row).provides != "nothing" else 0
    if stage == "finetune":
        return planner.phases(node.row) if params.adaptation(node.row).trains else 0
    if stage == "latents":
        return max(1, planner.cost(node).calls)
    sets = len(grid.ipc) * grid.draws
    if stage == "refine":
        return sets + len(params.refinement(node.row).shared_networks(list(grid.ipc)))
    counts = {
        "students": grid.draws * grid.seeds, "full_data": grid.seeds, "select": sets, "generator": 1, "encoder": 1,
        "teacher": 1, "coverage": sets * len(grid.methods) + len(params.pools),
    }  # fmt: skip
    return counts.get(stage, 0)


class Assembler:
    """Stages whose units are asleep; assembling takes ``nap`` seconds."""

    def __init__(self, units, each, nap=0.0, scale=1.0):
        self.units, self.each, self.nap, self.scale, self.own = units, each, nap, scale, 0.0
        self.memory = {}

    def begin(self, address):
        names = [f"{address}-{n}" for n in range(self.units[address])]
        return Work(
            address, len(names), [Job(address, [n], arguments=(self.each[address] / self.scale,)) for n in names]
        )

    def finish(self, address):
        time.sleep(self.nap / self.scale)

    def worked(self, address, seconds):
        """Nothing is logged."""

    def release(self, address):
        """Nothing is held."""

    def stop(self):
        """Nothing waits."""

    def missing(self, job):
        return job.names

    def state(self, job):
        return None


def makespan(edges, each, units, workers: int) -> float:
    """Seconds of the whole by the driver's rule: a free worker takes the unit that most seconds stand behind."""
    schedule, clock = schedule_of(edges, each, units), 0.0
    ready, running, left = [], [], dict(units)  # of stages; of units and assemblies by their end
    while not schedule.over:
        for address in schedule.ready():
            if units[address]:
                heapq.heappush(ready, (-schedule.remaining[address], address, units[address]))
            else:
                heapq.heappush(running, (clock + ASSEMBLY, address, 0))
        while ready and sum(work for *_, work in running) < workers:
            key, address, count = heapq.heappop(ready)
            heapq.heappush(running, (clock + each[address], address, 1))
            if count > 1:
                heapq.heappush(ready, (key, address, count - 1))
        clock, address, work = heapq.heappop(running)
        left[address] -= work
        if not work:
            schedule.end(address)
        elif not left[address]:
            heapq.heappush(running, (clock + ASSEMBLY, address, 0))
    return clock


def paper(names: list[str], tflops: float) -> None:
    """A line per profile, and what it waits for in the end."""
    print(f"| profile | units | disk GB | {' | '.join(f'{n} workers' for n in COUNTS)} | critical path |")
    for name in names:
        edges, each, units, disk = plan(name, tflops)
        hours = [makespan(edges, each, units, count) / 3600 for count in COUNTS]
        path = schedule_of(edges, {a: each[a] * (units[a] > 0) for a in edges}, dict.fromkeys(edges, 1))
        longest = sum(path.seconds[address] for address in path.critical_path()) / 3600
        text = " > ".join(a for a in path.critical_path() if each[a] > 60)
        shown = " | ".join(f"{hour:.1f} h" for hour in hours)
        print(f"| {name} | {sum(units.values()):,} | {disk / 1e9:,.0f} | {shown} | {longest:.1f} h: {text} |")


def schedule_of(edges, each, units) -> Schedule:
    """By the planned seconds of whole stages."""
    return Schedule(edges, {address: each[address] * max(1, units[address]) for address in edges})


def sleep(profile: str, workers: int, scale: float, tflops: float) -> dict[str, float]:
    """The plan on real workers: seconds, share of the workers' time that they slept, the driver's own."""
    import dask
    from distributed import Client, LocalCluster

    from ims3core.pipeline.dask_executor import DaskExecutor, Member

    edges, each, units, _ = plan(profile, tflops)
    schedule = schedule_of(edges, each, units)
    print("critical path:", " > ".join(a for a in schedule.critical_path() if each[a] * units[a] > 60))
    quiet = {  # all workers are in this process: each would ask the system every half second how it is
        "distributed.scheduler.allowed-failures": 0, "distributed.worker.memory.terminate": False,
        "distributed.admin.system-monitor.interval": "1h", "distributed.worker.profile.enabled": False,
        "distributed.scheduler.worker-ttl": None,
    }  # fmt: skip
    options = {
        "processes": False,
        "n_workers": workers,
        "threads_per_worker": 1,
        "memory_limit": 0,
        "resources": {"device": 1, "host": 1},
    }
    with (
        dask.config.set(quiet), tempfile.TemporaryDirectory() as folder,
        LocalCluster(**options, dashboard_address=":0") as cluster, Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        executor = DaskExecutor(client, Path(folder), threads=1, patience=60, make=time.sleep)
        facts = worker.Facts("", "", "fp32", False, "")
        client.wait_for_workers(workers)
        there = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
        executor.members = {address: Member(facts, 1, 0.0) for address in there}
        began, used = time.perf_counter(), time.thread_time()
        Driver(schedule, Assembler(units, each, ASSEMBLY, scale), executor, Board(len(edges))).run()
        total, own = time.perf_counter() - began, time.thread_time() - used
        executor.close()
    asleep = sum(each[a] * units[a] for a in edges) / scale
    longest = Schedule(edges, {a: each[a] if units[a] else 0.0 for a in edges}).remaining
    bound = max(asleep / workers, max(longest.values()) / scale)
    count = sum(units.values())
    overhead = 1000 * (total * workers - asleep) / count  # at most: workers that wait for a stage are in it
    return {"units": count, "seconds": total, "milliseconds beside a unit": overhead, "busy": asleep / workers / total,
            "of what is possible": bound / total, "driver": own}  # fmt: skip


def grid(folder: Path, workers: list[int], threads: int) -> None:
    """Rows of a table: the grid by plain DVC, and on workers."""
    found = {}
    for count in (0, *workers):
        clone = folder / (f"workers-{count}" if count else "plain")
        shutil.rmtree(clone, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        text = (clone / "params.yaml").read_text()
        (clone / "params.yaml").write_text(re.sub(r"^  threads: \d+", f"  threads: {threads}", text, flags=re.M))
        (clone / "dvc.lock").unlink(missing_ok=True)
        command = ["-m", "ims3core", "repro", "--workers", str(count)] if count else ["-m", "dvc", "repro"]
        environment = os.environ | {"PYTHONPATH": str(clone)}
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=clone, check=True, env=environment, stdout=subprocess.DEVNULL)
        found[clone.name] = time.perf_counter() - began
        same = "" if not count else f", same bytes: {outputs(clone) == outputs(folder / 'plain')}"
        again = subprocess.run(
            [sys.executable, "-m", "dvc", "status", "-q"], cwd=clone, check=False, env=environment
        ).returncode  # fmt: skip
        print(f"{clone.name}: {found[clone.name]:.0f} s, dvc status {again}{same}", flush=True)
        if count:
            forget(clone, ("refine", "students", "full_data"))
            began = time.perf_counter()
            said = subprocess.run(
                [sys.executable, "-m", "ims3core", "repro", "students", "full_data", "--workers", str(count)],
                cwd=clone, check=True, env=environment, capture_output=True, text=True,
            ).stdout  # fmt: skip
            print(
                f"{clone.name}, students and refinement: {time.perf_counter() - began:.0f} s; {said.strip()}",
                flush=True,
            )


def forget(clone: Path, stages: tuple[str, ...]) -> None:
    """Makes DVC run some stages again, and nothing else: takes their entries out of its lock and of its run cache."""
    lock = yaml.safe_load((clone / "dvc.lock").read_text())
    lock["stages"] = {name: entry for name, entry in lock["stages"].items() if name.split("@")[0] not in stages}
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    for gone in (".dvc/cache/runs", *(f"scratch/{name}" for stage in stages for name in _homes(clone, stage))):
        shutil.rmtree(clone / gone, ignore_errors=True)


def _homes(clone: Path, stage: str) -> list[str]:
    """The folders of a stage's work."""
    return [path.name for path in (clone / "scratch").glob(f"{stage}*") if path.is_dir()]


def outputs(clone: Path) -> dict[str, str]:
    """Digests of every output."""
    files = [path for name in ("data", "metrics", "reports") for path in sorted((clone / name).rglob("*"))]
    return {str(p.relative_to(clone)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("paper")
    one.add_argument("profiles", nargs="*", default=list(PROFILES))
    two = commands.add_parser("sleep")
    two.add_argument("profile", nargs="?", default="imagewoof")
    two.add_argument("--workers", type=int, default=64)
    two.add_argument("--scale", type=float, default=200.0)
    three = commands.add_parser("grid")
    three.add_argument("folder", type=Path)
    three.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    three.add_argument("--threads", type=int, default=1, help="of a process; 0: all cores")
    for command in (one, two):
        command.add_argument("--tflops", type=float, default=150.0)
    options = parser.parse_args()
    if options.command == "paper":
        paper(options.profiles, options.tflops)
    elif options.command == "sleep":
        for name, value in sleep(options.profile, options.workers, options.scale, options.tflops).items():
            print(f"{name}: {value:,.2f}")
    else:
        grid(options.folder, options.workers, options.threads)


if __name__ == "__main__":
    main()
