"""What a worker makes, and the assembler that asks for it: the bytes of a run in one process, whatever came before."""

import dataclasses
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ims3core.errors import ClusterError, CodeChangedError, HeldError
from ims3core.params import load
from ims3core.pipeline import assembler, harness, launching, progress, warm, worker
from ims3core.pipeline.graph import Graph
from ims3core.pipeline.workspace import Workspace, exclusive, open_workspace

REPOSITORY = Path(__file__).resolve().parents[2]
LINES = ("prepare", "encoder", "candidates real", "features real", "centroids real", "select random", "teacher", "labels steps")  # fmt: skip


class Repository:
    """Of stages that are all changed; runs one as DVC would."""

    def __init__(self, root):
        self.root, self.states = root, {}

    def state(self, address):
        return self.states.get(address, "changed")

    def reproduce(self, address):
        params = load(self.root / "params.yaml")
        node = next(node for node in Graph(params.tree).nodes if node.address == address)
        harness.execute(harness.open_node(node, params, self.root))


@pytest.fixture(scope="module")
def plain(build, toy_text):
    """A toy project, run by one process up to its students."""
    tree = yaml.safe_load(toy_text)
    tree["compute"] |= {"threads": 1, "device": "cpu"}
    tree["features"]["batch_size"] = 500
    tree["eval"] |= {"methods": ["random"], "ipc": [1]}
    tree["report"]["tsne_method"] = "random"
    return build(yaml.safe_dump(tree, sort_keys=False), *LINES, "students random 1 convnet steps")


@pytest.fixture
def project(plain, tmp_path, monkeypatch):
    """A copy without what is made of the real images, and a assembler for it."""
    shutil.copytree(plain, root := tmp_path / "copy")
    for gone in ("data/features", "metrics/cells", "scratch"):
        shutil.rmtree(root / gone)
    shutil.copytree(plain / "data/features", root / "data/features")
    monkeypatch.chdir(root)
    monkeypatch.setattr(assembler, "Repository", Repository)
    monkeypatch.setattr(worker, "_opened", {})
    return root


def assembler_of(root, threads=1, **changes):
    params = worker.with_threads(load(root / "params.yaml"), threads)
    return assembler.ProjectAssembler(
        root, params, Graph(params.tree), threads=threads, **({"gpus": False, "memory": {"students": 1}} | changes)
    )


@pytest.mark.parametrize("address", ["features@real", "students@random-1-convnet-steps", "select@random"])
def test_workers_and_the_assembler_leave_the_bytes_of_one_process(plain, project, address):
    """Units are made elsewhere in another order; the stage then finds them and makes none."""
    office = assembler_of(project)
    work = office.begin(address)
    assert work.total == sum(len(job.names) for job in work.jobs) > 0
    for job in reversed(work.jobs):
        worker.make_units(*job.arguments)
        assert office.missing(job) == []
    made = []
    kind = harness.find_stage(address.split("@")[0])
    original, kind.make = kind.make, lambda *task: made.append(task)
    try:
        office.finish(address)
    finally:
        kind.make = original
    assert made == []
    for out in office.nodes[address].outs:
        found, wanted = (
            sorted(p for p in (root / out).rglob("*") if p.is_file()) or [root / out] for root in (project, plain)
        )
        assert [path.read_bytes() for path in found] == [path.read_bytes() for path in wanted] != []


def test_what_is_there_is_not_asked_for_again(project):
    """A run that was begun in one way is ended in the other."""
    office = assembler_of(project)
    first = office.begin(address := "students@random-1-convnet-steps").jobs
    worker.make_units(*first[0].arguments)
    office.release(address)
    again = office.begin(address)
    assert [job.names for job in again.jobs] == [job.names for job in first[1:]] and again.total == len(first)
    office.release(address)


def test_the_workspace_is_held_while_units_are_made(project):
    """Another run waits, and cannot delete what workers write to."""
    office = assembler_of(project)
    office.begin(address := "students@random-1-convnet-steps")
    waited = []

    def other():
        with open_workspace(project, office.nodes[address].place, "another fingerprint"):
            waited.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(0.3)
    assert waited == []
    office.release(address)
    thread.join()
    assert waited == [True]


def test_dvc_is_asked_first(project):
    """Nothing is opened of a stage that is the same; what DVC has kept, or has no units, is left to it."""
    office = assembler_of(project)
    office.repository.states |= {"features@real": "same", "select@random": "kept"}
    assert office.begin("features@real") is None
    assert office.begin("select@random").jobs == office.begin("centroids@real").jobs == []


def test_students_come_in_as_many_as_a_worker_has_threads(project):
    """Where it makes each on one thread; on a GPU one after the other."""
    address = "students@random-1-convnet-steps"
    for office, sizes in ((assembler_of(project, 3), [3, 1]), (assembler_of(project, 3, gpus=True), [1] * 4)):
        load_tree = yaml.safe_load((project / "params.yaml").read_text())
        assert load_tree["eval"]["draws"] * load_tree["eval"]["seeds"] == 4
        assert [len(job.names) for job in office.begin(address).jobs] == sizes
        office.release(address)


def test_selections_and_the_report_hold_no_gpu(project):
    """But for selections that ask the teacher; without GPUs every worker does one thing at a time."""
    office = assembler_of(project, gpus=True)
    assert {job.need for job in office.begin("select@random").jobs} == {"host"}
    assert {job.need for job in office.begin("features@real").jobs} == {"device"}
    for address in ("select@random", "features@real"):
        office.release(address)
    stage = harness.open_node(office.nodes["select@random"], office.params, project)
    assert not stage.needs_network()
    stage.selection = SimpleNamespace(needs_teacher=True)
    assert stage.needs_network()
    assert {job.need for job in assembler_of(project).begin("select@random").jobs} == {"device"}


def test_a_worker_with_other_inputs_makes_nothing(project):
    """One line names the stage and both fingerprints."""
    job = assembler_of(project).begin("features@real").jobs[0]
    root, node, fingerprint, *rest = job.arguments
    with pytest.raises(ClusterError, match=rf"features real: .* fingerprint {fingerprint} on this worker, wanted 0123"):
        worker.make_units(root, node, "0123", *rest)


def test_a_unit_that_the_parameters_do_not_have_any_more_is_named(project):
    """Amounts are in no fingerprint: params.yaml that shrank meanwhile is named, and not tried three times."""
    job = assembler_of(project).begin("features@real").jobs[0]
    root, node, fingerprint, _, *rest = job.arguments
    with pytest.raises(
        ClusterError, match=r"features real: found no unit gone-7 .* did something change params\.yaml\?"
    ):
        worker.make_units(root, node, fingerprint, ["gone-7"], *rest)


def test_a_checkpoint_that_goes_while_it_is_looked_at_ends_nothing(project, monkeypatch):
    """A worker that finishes a unit removes it."""
    office = assembler_of(project)
    job = office.begin("features@real").jobs[0]
    place = office._held["features@real"][1].path
    (place / "kept.begun").touch()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([place / "gone.begun", place / "kept.begun"]))
    missing, latest = office.state(job)
    assert missing == job.names and latest == (place / "kept.begun").stat().st_mtime_ns
    office.release("features@real")


def test_what_a_stage_sets_for_the_process_does_not_reach_the_next(project):
    """Training that is compiled chooses other algorithms for the whole process."""
    jobs = assembler_of(project).begin("features@real").jobs
    worker._before.clear()
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    worker.make_units(*jobs[0].arguments)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    worker._opened.clear()
    worker.make_units(*jobs[1].arguments)
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


def test_what_a_stage_kept_of_memory_is_given_back_before_the_next(project, monkeypatch):
    """Once for a stage, not for each of its units: within one, what is kept is what makes it fast."""
    given = []
    monkeypatch.setattr(worker, "give_back", lambda: given.append(1))
    worker._opened.clear()
    jobs = assembler_of(project).begin("features@real").jobs
    for job in jobs[:2]:
        worker.make_units(*job.arguments)
    assert len(given) == 1
    worker._opened.clear()
    worker.make_units(*jobs[0].arguments)
    assert len(given) == 2


def test_a_launcher_makes_the_units_of_a_stage_and_nothing_else(project, monkeypatch):
    """Fine-tuning on several processes: DVC assembles it like any other."""
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree["compute"]["launch"] = "torchrun --nproc_per_node 2"
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    office, calls = assembler_of(project), []
    monkeypatch.setattr(launching, "launch", lambda *words, **environment: calls.append((words, environment)))
    node = dataclasses.replace(office.nodes["features@real"], stage="features")
    monkeypatch.setattr(harness.find_stage("features"), "sharing", "steps")
    job = office.begin("features@real").jobs[0]
    worker.make_units(*job.arguments)
    assert calls == [(("torchrun --nproc_per_node 2", [node.stage, "real"], project), {launching.UNITS_ONLY: "1"})]
    monkeypatch.setenv(launching.UNITS_ONLY, "1")
    monkeypatch.setenv(launching.LAUNCHED, "1")
    from ims3core.cli import stages

    output = project / "data/features/real/manifest.json"
    before = output.stat().st_mtime_ns
    stages.run_stage("features", load(project / "params.yaml"), "real")
    assert office.missing(job) == [] and output.stat().st_mtime_ns == before


def test_two_writers_of_a_unit_do_not_collide(tmp_path):
    """The second one waits for the first, and then has nothing to write."""
    work, order, inside = Workspace.shared(tmp_path, "s", "f"), [], threading.Event()

    def write(name, wait):
        with work.making("unit") as path:
            order.append((name, path is not None))
            if path is not None:
                inside.set()
                wait.wait(5)
                path.write_text(name)

    hold = threading.Event()
    first = threading.Thread(target=write, args=("first", hold))
    first.start()
    inside.wait(5)
    second = threading.Thread(target=write, args=("second", hold))
    second.start()
    second.join(0.2)
    assert order == [("first", True)]
    hold.set()
    first.join()
    second.join()
    assert order == [("first", True), ("second", False)] and (work.path / "unit").read_text() == "first"


def test_a_warm_server_whose_code_changed_answers_nobody(tmp_path, monkeypatch):
    """The command then runs by itself, with the code that DVC takes digests of."""
    path = tmp_path / "socket"
    monkeypatch.setenv(launching.SOCKET, str(path))
    server = threading.Thread(target=warm.serve, args=(str(path), None, lambda: False, lambda: False))
    server.start()
    while not path.exists():
        pass
    assert warm.ask(["prepare"]) is None
    server.join(10)
    assert not server.is_alive() and warm.ask(["prepare"]) is None


@pytest.mark.parametrize("name", [launching.LAUNCHED, "WORLD_SIZE"])
def test_what_is_launched_does_not_ask_the_server_that_waits_for_it(monkeypatch, name):
    """Also a launcher of one process, which sets no WORLD_SIZE; and it is not told of the server."""
    monkeypatch.setenv(launching.SOCKET, "socket")
    launching.launch(f"{sys.executable} -c 'import os, sys; sys.exit(\"{launching.SOCKET}\" in os.environ)'", [])
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(warm.socket, "socket", None)
    assert warm.ask(["latents"]) is None


def test_a_workspace_of_another_run_is_not_waited_for(project):
    """That one may wait for a workspace which is held here."""
    office, (address, free) = assembler_of(project), ("features@real", "select@random")
    home = project / "scratch" / office.nodes[address].place
    office.begin(free)
    with exclusive(home, "other"), pytest.raises(HeldError, match=f"process {os.getpid()} is still at it$"):
        office.begin(address)
    assert office.begin(address).jobs
    for one in (address, free):
        office.release(one)


def test_nothing_is_begun_or_assembled_by_code_that_changed(project, monkeypatch):
    """Workers make nothing of it either."""
    office = assembler_of(project)
    job = office.begin("features@real").jobs[0]

    def changed():
        raise CodeChangedError("the code changed")

    for module in (assembler, worker):
        monkeypatch.setattr(module, "require_loaded_code", changed)
    for call in (
        lambda: office.begin("select@random"),
        lambda: office.finish("features@real"),
        lambda: worker.make_units(*job.arguments),
    ):
        with pytest.raises(CodeChangedError):
            call()
    assert office.missing(job) == job.names
    office.release("features@real")


def test_a_warm_server_runs_a_command_as_a_new_process_does(tmp_path):
    """The same output and exit code in the asker's folder; without a server the command runs by itself."""
    (tmp_path / "profiles").mkdir()
    os.environ["PYTHONPATH"], before = str(REPOSITORY), os.environ.get("PYTHONPATH")

    def command(*words):
        found = subprocess.run([sys.executable, "-m", "ims3core", *words], cwd=tmp_path, capture_output=True, text=True)
        return found.returncode, found.stdout, found.stderr

    try:
        alone = [command("--version"), command("prepare")]
        with warm.serving():
            path = Path(os.environ[warm.SOCKET])
            for _ in range(600):
                if path.exists():
                    break
                threading.Event().wait(0.1)
            assert [command("--version"), command("prepare")] == alone
        assert alone[1] == (2, "", "ims3: params.yaml: no such file; `ims3 use digits` writes one\n")
        assert warm.ask([]) is None and not path.exists()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def test_a_board_in_a_pipe_says_now_and_then_how_far_it_is(caplog, monkeypatch):
    """The time left is the planned one, as much longer as finished work took."""
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    board = progress.Board(3)
    board.begin("a", "stage a", total=10, done=2, planned=100.0)
    board.begin("b", "stage b", total=2, done=0, planned=1000.0)
    board.advance("a", 4, 80.0, workers=2)  # planned were 40
    assert caplog.messages == []
    now[0] = 301.0
    board.advance("a", 2, 40.0, workers=2)
    left = (2 * 10 + 2 * 500) * 2 / 2 / 60
    assert caplog.messages == [f"0 of 3 stages; 4 units to go of those in work, about {left:.0f} min left for them"]
    board.end("a")
    board.close()


def test_facts_that_differ_are_named():
    """Those that would change bytes; not where a log lies, or that one has a GPU."""
    facts = worker.Facts("c", "2.9", "fp32", False, "a.log")
    assert facts.difference(dataclasses.replace(facts, log="b.log", gpu=True)) is None
    assert facts.difference(dataclasses.replace(facts, precision="bf16")) == (
        "precision: found fp32, wanted bf16; set compute.precision to what the workers have"
    )


@pytest.mark.parametrize(
    ("sharing", "launch", "in_order", "together"),
    [
        ("steps", "torchrun", False, True),
        ("steps", None, False, False),
        ("units", "torchrun", False, False),
        ("units", None, True, True),
    ],
)
def test_units_that_belong_together_are_one_job(project, monkeypatch, sharing, launch, in_order, together):
    """What the processes of a launcher make together, and what stands on units before; phases of one process do not."""
    monkeypatch.setattr(harness.find_stage("features"), "sharing", sharing)
    monkeypatch.setattr(harness.find_stage("features"), "ordered", in_order)
    office = assembler_of(project)
    office.params = office.params.model_copy(
        update={"compute": office.params.compute.model_copy(update={"launch": launch})}
    )
    office.params._tree, office.params._rows = load(project / "params.yaml")._tree, load(project / "params.yaml")._rows
    work = office.begin("features@real")
    assert (len(work.jobs) == 1) == together and sum(len(job.names) for job in work.jobs) == work.total > 1
    office.release("features@real")


def test_a_generator_is_one_job_in_its_order(project):
    """The DiT is trained on latents of the VAE."""
    office = assembler_of(project)
    (job,) = office.begin("generator").jobs
    assert job.names[0] == "vae" and job.names[1].startswith("dit-")
    office.release("generator")
