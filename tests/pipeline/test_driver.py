"""A run on many workers, without any: in which order, what a failure costs, what goes on."""

import heapq
import itertools
import queue
import random
import threading

import pytest

from ims3core.errors import ClusterError, CodeChangedError, HeldError
from ims3core.pipeline import driver
from ims3core.pipeline.driver import TRIES, Driver, Job, Work
from ims3core.pipeline.progress import Board
from ims3core.pipeline.schedule import Schedule

EDGES = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["c"]}


class Assembler:
    """Stages of so many units; ``kept`` are the units that are there."""

    def __init__(self, units, same=()):
        self.units, self.same, self.kept, self.log, self.memory = units, same, set(), [], {}

    def begin(self, address):
        if address in self.same:
            return None
        self.log.append(f"begin {address}")
        names = [f"{address}{n}" for n in range(self.units.get(address, 1))]
        memory = self.memory.get(address, 0.0)
        jobs = [Job(address, [name], memory=memory) for name in names if name not in self.kept]
        return Work(address, len(names), jobs)

    def finish(self, address):
        assert all(f"{address}{n}" in self.kept for n in range(self.units.get(address, 1)))
        self.log.append(f"finish {address}")

    def worked(self, address, seconds):
        """Nothing is logged."""

    def release(self, address):
        self.log.append(f"release {address}")

    def stop(self):
        self.log.append("stop")

    def missing(self, job):
        return [name for name in job.names if name not in self.kept]

    def state(self, job):
        return None


class Executor:
    """So many workers with a clock of their own; ``fate`` says what becomes of a job that is handed out."""

    def __init__(self, assembler, workers, seconds=lambda job: 1.0, fate=lambda job: ("made",)):
        self.assembler, self.size, self.seconds, self.fate = assembler, workers, seconds, fate
        self.events, self.clock, self.running, self.handed = queue.SimpleQueue(), 0.0, [], []
        self.count = itertools.count()

    def look(self, jobs):
        pass

    def free(self, job):
        return "worker" if len(self.running) < self.size else None

    def start(self, job, worker):
        self.handed.append(job.names[0])
        heapq.heappush(self.running, (self.clock + self.seconds(job), next(self.count), job))

    def next(self, seconds):
        try:  # what the assembler says comes at once
            return self.events.get(timeout=0.02)
        except queue.Empty:
            if not self.running:
                return None
        self.clock, _, job = heapq.heappop(self.running)
        fate = self.fate(job)
        if fate[0] == "made":
            self.assembler.kept.update(job.names)
            return "made", job, 1.0
        return "lost", job, *fate[1:]


def run(assembler, executor, edges=EDGES, seconds=None):
    Driver(Schedule(edges, seconds or {}), assembler, executor, Board(len(edges))).run()


def test_every_stage_is_assembled_after_those_it_stands_on():
    """And everything is made once."""
    assembler = Assembler({"c": 4})
    executor = Executor(assembler, 3)
    run(assembler, executor)
    assert sorted(executor.handed) == sorted(assembler.kept) == ["a0", "b0", "c0", "c1", "c2", "c3", "d0", "e0"]
    place = {entry: number for number, entry in enumerate(assembler.log)}
    for stage, befores in EDGES.items():
        assert all(place[f"finish {before}"] < place[f"begin {stage}"] for before in befores)


def test_the_longest_path_comes_first():
    """A free worker gets the unit that most seconds stand behind, whatever was asked for first."""
    edges = {"short": [], "long": [], "after": ["long"]}
    assembler = Assembler({"short": 2, "long": 2})
    executor = Executor(assembler, 1)
    run(assembler, executor, edges, {"short": 5, "long": 1, "after": 60})
    assert executor.handed[-3:] in (
        ["after0", "short0", "short1"],
        ["short1", "after0"],
        ["short0", "after0", "short1"],
    )
    assert executor.handed.index("long1") < executor.handed.index("short1")


def test_stages_that_dvc_calls_the_same_are_passed():
    """What stands on them begins."""
    assembler = Assembler({}, same=("a", "b", "c"))
    executor = Executor(assembler, 1)
    run(assembler, executor)
    assert sorted(executor.handed) == ["d0", "e0"]


def test_a_unit_that_fails_is_tried_three_times_and_the_other_stages_go_on(caplog):
    """One line names stage, unit, reason and log; the last one what failed and what was not begun."""
    assembler = Assembler({"b": 2})
    executor = Executor(
        assembler, 2, fate=lambda job: ("lost", "killed", "w.log", True) if job.names == ["b0"] else ("made",)
    )
    with pytest.raises(ClusterError, match=r"^failed: b; not begun: d; see"):
        run(assembler, executor)
    assert executor.handed.count("b0") == TRIES == 3
    assert caplog.messages == ["b: b0: killed, tried 3 times; log: w.log"]
    assert {"finish c", "finish e", "release b"} <= set(assembler.log) and "finish b" not in assembler.log


def test_a_mistake_is_not_tried_again(caplog):
    """It would fail again: another order of the same numbers."""
    assembler = Assembler({})
    executor = Executor(assembler, 1, fate=lambda job: ("lost", "diverged", "w.log", False))
    with pytest.raises(ClusterError, match=r"^failed: a; not begun: b, c, d, e"):
        run(assembler, executor)
    assert executor.handed == ["a0"]
    assert caplog.messages == ["a: a0: diverged; log: w.log"]


def test_tries_count_only_while_nothing_is_kept():
    """A training that a checkpoint saw further is another beginning each time; ten kills do not end it."""
    assembler, lives = Assembler({}), iter(range(10))
    assembler.state = lambda job: next(lives, None)
    executor = Executor(
        assembler, 1, fate=lambda job: ("made",) if next(deaths, None) is None else ("lost", "killed", "", True)
    )
    deaths = iter(range(9))
    run(assembler, executor)
    assert "finish e" in assembler.log and executor.handed.count("a0") == 10


def test_a_stage_that_cannot_be_opened_or_assembled_stops_what_stands_on_it(caplog):
    """With the line of its error."""
    assembler = Assembler({})

    def finish(address):
        raise ClusterError(f"{address} ended with code 2")

    assembler.finish = finish
    with pytest.raises(ClusterError, match=r"^failed: a; not begun: b, c, d, e"):
        run(assembler, Executor(assembler, 1))
    assert caplog.messages == ["a: a ended with code 2"]


@pytest.mark.parametrize("seed", range(4))
def test_random_deaths_lose_nothing(seed):
    """Any graph, any worker count, deaths at random: every unit is kept, every stage assembled."""
    stream = random.Random(seed)
    names = [f"s{n}-" for n in range(6)]
    edges = {name: [other for other in names[:n] if stream.random() < 0.4] for n, name in enumerate(names)}
    assembler = Assembler({name: stream.randint(1, 4) for name in names})
    assembler.state = lambda job: object()
    executor = Executor(
        assembler, stream.randint(1, 4), seconds=lambda job: stream.random(),
        fate=lambda job: ("made",) if stream.random() < 0.6 else ("lost", "killed", "", True),
    )  # fmt: skip
    run(assembler, executor, edges)
    assert {entry for entry in assembler.log if entry.startswith("finish")} == {f"finish {name}" for name in names}


def test_a_job_that_is_too_large_for_now_lets_smaller_ones_pass():
    """The only worker with the memory is busy: what needs less goes to the others, what needs as much waits."""
    one = Driver(Schedule({"large": [], "small": []}, {"large": 9, "small": 1}), None, None, Board(2))
    asked, handed = [], []

    class Small:
        def free(self, job):
            asked.append(job.names[0])
            return "small" if job.memory <= 1 else None

        def start(self, job, worker):
            handed.append(job.names[0])

    one.executor = Small()
    one._open = {"large": 2, "small": 2}
    for name, memory in (("large0", 8.0), ("large1", 8.0), ("small0", 1.0), ("small1", 1.0)):
        one._queue(Job(name[:-1], [name], memory=memory))
    one._hand_out()
    assert handed == ["small0", "small1"] and asked.count("large0") == 1 and "large1" not in asked
    assert sum(map(len, one._ready.values())) == 2


def test_after_the_data_set_is_known_jobs_have_their_planned_memory():
    """Before it there is no plan: without another one all jobs of a first run would count as small."""
    assembler, seen = Assembler({}), {}
    executor = Executor(assembler, 1)
    start = executor.start
    executor.start = lambda job, worker: (seen.update({job.address: job.memory}), start(job, worker))
    plan = {"b": 7.0, "e": 3.0}
    Driver(
        Schedule(EDGES, {}), assembler, executor, Board(len(EDGES)),
        replan=lambda: (dict.fromkeys(EDGES, 2.0), plan), replan_after="a",
    ).run()  # fmt: skip
    assert seen == {"a": 0.0, "b": 7.0, "c": 0.0, "d": 0.0, "e": 3.0}


def test_a_stage_that_another_run_is_at_is_asked_for_again(monkeypatch, caplog):
    """One line says so, all else goes on, and nothing is held back for it; the same where it is assembled."""
    monkeypatch.setattr(driver, "AGAIN", 0.05)
    assembler = Assembler({})
    refusals, plain = {"begin": 3, "finish": 2}, {"begin": assembler.begin, "finish": assembler.finish}

    def held(errand, address):
        if address == "b" and refusals[errand]:
            refusals[errand] -= 1
            raise HeldError("b: process 7 is still at it")
        return plain[errand](address)

    assembler.begin = lambda address: held("begin", address)
    assembler.finish = lambda address: held("finish", address)
    run(assembler, Executor(assembler, 1))
    assert refusals == {"begin": 0, "finish": 0}
    assert caplog.messages == ["b: process 7 is still at it; waiting for it to end"]
    assert assembler.log.index("finish c") < assembler.log.index("begin b") and "finish d" in assembler.log


def test_code_that_changed_ends_the_run_in_one_line(caplog):
    """Not in one for every stage."""
    assembler = Assembler({})

    def begin(address):
        raise CodeChangedError("the code changed")

    assembler.begin = begin
    with pytest.raises(CodeChangedError):
        run(assembler, Executor(assembler, 1), {"a": [], "b": [], "c": []})
    assert caplog.messages == [] and "stop" in assembler.log


def test_an_interrupt_stops_what_waits():
    """The assembler is told, and then waited for."""
    assembler, stopped, waits = Assembler({}), threading.Event(), threading.Event()
    assembler.stop = stopped.set

    def begin(address):
        waits.set()
        assert stopped.wait(20)
        raise ClusterError("ended")

    assembler.begin = begin
    executor = Executor(assembler, 1)

    def interrupt(seconds):
        assert waits.wait(20)
        raise KeyboardInterrupt

    executor.next = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(assembler, executor)
    assert stopped.is_set()


def paths(edges, seconds, start):
    """All paths from ``start``, by trying every follower."""
    followers = [name for name, befores in edges.items() if start in befores]
    return [seconds[start] + rest for name in followers for rest in paths(edges, seconds, name)] or [seconds[start]]


@pytest.mark.parametrize("seed", range(5))
def test_what_remains_is_the_longest_of_all_paths(seed):
    """Against a search through all of them; the critical path is one that long."""
    stream = random.Random(seed)
    names = [f"s{n}" for n in range(7)]
    edges = {name: [other for other in names[:n] if stream.random() < 0.4] for n, name in enumerate(names)}
    seconds = {name: float(stream.randint(1, 9)) for name in names}
    schedule = Schedule(edges, seconds)
    assert schedule.remaining == {name: max(paths(edges, seconds, name)) for name in names}
    path = schedule.critical_path()
    assert sum(seconds[name] for name in path) == max(schedule.remaining.values())
    assert all(before in edges[after] for before, after in itertools.pairwise(path))
