"""Real workers of Dask: who is let in, what a death costs, what the command line refuses."""

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest

from ims3core import cli
from ims3core.errors import ClusterError, CodeChangedError, ParameterError
from ims3core.pipeline import places, repro, worker
from ims3core.pipeline.dask_executor import DIED, REPLACING, DaskExecutor
from ims3core.pipeline.driver import Job
from ims3core.pipeline.places import Place, read_cluster
from ims3core.pipeline.workspace import exclusive

pytest.importorskip("distributed")
cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's threads and sockets, where a worker is killed
SLURM = {"jobqueue": {"slurm": {"cores": 1, "memory": "1GB"}}}


@pytest.fixture(scope="module")
def client():
    """Two processes on this machine."""
    with places.client_of(Place(workers=2), threads=1, gpus=0, wanted=lambda: 2) as client:
        yield client


@pytest.mark.parametrize("deaths", [places.STARTS - 1, places.STARTS])
def test_workers_that_end_as_they_begin_are_begun_again(deaths, monkeypatch):
    """Up to a number of times, after which one line says so."""
    begun = []

    class Cluster:
        def __init__(self, **options):
            begun.append(options)
            if len(begun) <= deaths:
                raise RuntimeError("Nanny failed to start.")

        def close(self, timeout):
            begun.clear()

    monkeypatch.setattr("distributed.SpecCluster", Cluster)
    if deaths == places.STARTS:
        with (
            pytest.raises(ClusterError, match=r"^--workers: a worker does not start: Nanny failed to start\.$"),
            places._local(2, 1, 0),
        ):
            pass
        assert len(begun) == places.STARTS
        return
    with places._local(2, 1, 0) as cluster:
        assert isinstance(cluster, Cluster) and len(begun) == places.STARTS
    assert not begun


@pytest.fixture
def executor(client, toy, tmp_path):
    """Workers that run what a job brings along."""
    params = toy(compute__threads=1)
    executor = DaskExecutor(client, tmp_path, threads=1, patience=60, make=lambda call, *arguments: call(*arguments))
    executor.own = worker.facts(params)
    yield executor
    executor.close()


def happen(executor, seconds=60):
    """The next event."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.look(1)
        if (event := executor.next(0.2)) is not None:
            return event
    raise TimeoutError


def test_workers_find_the_environment_of_this_shell(client):
    """Dask would set threads, and give every freed tensor back to the system: training then takes twice as long."""
    names = ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    client.wait_for_workers(2)
    found = client.run(lambda: {name: os.environ.get(name) for name in names})
    assert list(found.values()) == 2 * [{name: os.environ.get(name) for name in names}]


def test_workers_keep_what_they_free_and_nobody_profiles_them(client, executor):
    """Units run on a thread that Dask began, of which glibc forgets every large tensor; its profiler took a fifth."""
    executor.gather()
    while executor.size < 2:
        executor.look(1)
        time.sleep(0.05)
    wanted = os.environ.get("MALLOC_ARENA_MAX", "1")  # one of the user's own stays
    assert list(client.run(lambda: os.environ["MALLOC_ARENA_MAX"]).values()) == [wanted, wanted]
    running = client.run(lambda dask_worker: dask_worker.periodic_callbacks["profile"].is_running())
    assert list(running.values()) == [False, False]


def test_a_worker_that_dies_gives_its_job_back_and_another_comes(executor):
    """Its log is named; the other job is not touched; whoever replaces the dead worker is let in."""
    executor.gather()
    while executor.size < 2:
        executor.look(1)
        time.sleep(0.05)
    victim, other = Job("s", ["a"], arguments=(os.kill, 0, 0)), Job("s", ["b"], arguments=(time.sleep, 0.5))
    victim.arguments = (lambda: os.kill(os.getpid(), signal.SIGKILL),)
    first = executor.free(victim)
    log = executor.members[first].facts.log
    executor.start(victim, first)
    second = executor.free(other)
    assert second != first
    executor.start(other, second)
    assert executor.free(other) is None
    events = {event[1].names[0]: event for event in (happen(executor), happen(executor))}
    assert events["a"][0] == "lost" and events["a"][2:] == (DIED, log, True)
    assert events["b"][0] == "made"
    while executor.size < 2:
        executor.look(1)
        time.sleep(0.05)
    assert first not in executor.members


def test_a_client_that_asked_for_no_workers_loses_none(executor, monkeypatch):
    """Its timer notes the scheduler without them, at any moment between an answer and who reads it."""
    executor.gather()
    before = set(executor.members)
    noted = property(lambda _: {"workers": {}}, lambda *_: None)
    monkeypatch.setattr(type(executor.client), "_scheduler_identity", noted, raising=False)
    executor._looked = 0.0
    executor.look(1)
    assert before <= set(executor.members)


def test_what_a_worker_raises_comes_back_as_one_line(executor):
    """A mistake is not tried again, anything else is."""
    executor.gather()

    def fail(error):
        raise error

    for error, again in ((ClusterError("other inputs"), False), (MemoryError("17 GB"), True)):
        job = Job("s", ["a"], arguments=(fail, error))
        executor.start(job, executor.free(job))
        kind, _, reason, log, tried_again = happen(executor)
        assert (kind, tried_again) == ("lost", again)
        assert str(error) in reason and log.startswith(str(executor.root))


@pytest.mark.parametrize("fact", ["code", "torch", "precision"])
def test_a_worker_that_is_not_like_the_others_is_refused(executor, fact, caplog):
    """Before it makes anything, in one line that names what differs."""
    executor.own = replace(executor.own, **{fact: "another"})
    with pytest.raises(
        ClusterError, match=rf"no worker can be used: worker tcp://.*{fact}.*: found .*, wanted another"
    ):
        while True:
            executor.look(1)
            time.sleep(0.05)
    assert not executor.members and len(caplog.messages) in (1, 2)


def test_workers_without_the_common_folder_are_refused(client, toy, tmp_path):
    """One line says that there is no common file system."""
    params = toy()
    executor = DaskExecutor(client, tmp_path, threads=1, patience=60)
    executor.own = worker.facts(params)
    for token in (tmp_path / worker.LOGS).glob("token-*"):
        token.unlink()
    with pytest.raises(ClusterError, match=r"is another folder on .*, wanted a common file system"):
        executor.gather()
    executor.close()


def test_workers_that_never_come_end_the_run(toy, tmp_path):
    """After a limit, with one line."""
    from distributed import Client, Scheduler, SpecCluster

    toy()
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "port": 0}}
    with SpecCluster(workers={}, scheduler=scheduler) as cluster, Client(cluster, set_as_default=False) as client:
        executor = DaskExecutor(client, tmp_path, threads=1, patience=0.3)
        with pytest.raises(ClusterError, match="no worker came within 0 s, and 1 pieces of work wait"):
            executor.gather()


def test_a_scheduler_that_is_lost_ends_the_run(toy, tmp_path):
    """With one line that says that the same command goes on."""
    from distributed import Client, Scheduler, SpecCluster

    toy()
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "port": 0}}
    cluster = SpecCluster(workers={}, scheduler=scheduler)
    with Client(cluster.scheduler_address, set_as_default=False, timeout="2s") as client:
        executor = DaskExecutor(client, tmp_path, threads=1, patience=60)
        executor.look(1)
        cluster.close()
        with pytest.raises(ClusterError, match="the scheduler is lost; what is made stays, and the same"):
            executor.gather()


def test_a_job_goes_to_a_worker_with_the_memory_for_it(client, toy, tmp_path):
    """And to the one that knows its stage; without one that is large enough, to any."""
    from ims3core.pipeline.dask_executor import Member

    toy()
    executor, facts = DaskExecutor(client, tmp_path, threads=1, patience=1), worker.Facts("", "", "fp32", False, "")
    executor.members = {
        "small": Member(facts, 1, 1e9, last="s"),
        "large": Member(facts, 1, 9e9),
        "any": Member(facts, 1, 0),
    }
    assert executor.free(Job("s", ["a"], memory=1e8)) == "small"
    assert executor.free(Job("s", ["a"], memory=5e9)) == "large"
    executor.members["large"].busy["device"] = Job("t", ["b"])
    assert executor.free(Job("s", ["a"], memory=5e9)) == "any"
    assert executor.free(Job("s", ["a"], memory=5e9, need="host")) == "large"
    del executor.members["any"], executor.members["large"]
    assert executor.free(Job("s", ["a"], memory=5e9)) == "small"
    executor.close()


def test_jobs_of_several_processes_are_not_cancelled_by_the_look_for_dead_ones(toy, tmp_path):
    """A queue counts jobs, a request workers: eight jobs of eight processes stay eight."""
    from dask_jobqueue.local import LocalCluster

    toy()
    with LocalCluster(cores=8, processes=8, memory="8GB", n_workers=0, silence_logs=False) as cluster:
        looked = threading.Event()
        cluster._correct_state = looked.set  # no job is really started
        cluster.scale(64)
        assert looked.wait(10) and len(cluster.worker_spec) == 8
        looked.clear()
        executor = DaskExecutor(SimpleNamespace(cluster=cluster), tmp_path, threads=1, patience=60)
        executor._replace(time.monotonic() + 2 * REPLACING)
        assert looked.wait(10) and len(cluster.worker_spec) == 8
        del cluster._correct_state
        cluster.worker_spec.clear()
        executor.close()


def test_two_runs_in_one_checkout_wait_for_each_other(toy, tmp_path, monkeypatch, caplog):
    """Before either has workers: side by side each would wait for a stage that the other one holds."""
    params, reached = toy(), threading.Event()

    def client_of(*arguments):
        reached.set()
        raise ClusterError("far enough")

    monkeypatch.setattr(places, "client_of", client_of)

    def start():
        with contextlib.suppress(ClusterError):
            repro.run(tmp_path, params, [], Place(workers=1), lambda: ({}, {}))

    second = threading.Thread(target=start)
    with exclusive(tmp_path / repro.LOCK, "first"):
        second.start()
        while not caplog.messages:
            time.sleep(0.01)
        assert not reached.wait(0.5)
    second.join(30)
    assert reached.is_set()
    assert caplog.messages == [f"ims3 repro: process {os.getpid()} is still at it; waiting for it to end"]


def test_what_goes_wrong_in_closing_does_not_hide_an_interrupt():
    """Nor does it end a run that is over; an error without a text is still named."""

    def close(timeout):
        raise TimeoutError

    with pytest.raises(KeyboardInterrupt), places._closing(SimpleNamespace(close=close)):
        raise KeyboardInterrupt
    with places._closing(SimpleNamespace(close=close)):
        pass
    assert cli._one_line(TimeoutError()) == "TimeoutError"


def test_a_scheduler_that_does_not_answer_leaves_nothing_behind(monkeypatch):
    """A client of Dask that could not connect prints a traceback when it goes: so there is none."""
    import distributed

    monkeypatch.setattr(places, "CONNECTING", "0.3s")
    monkeypatch.setattr(distributed, "Client", None)
    with (
        pytest.raises(ClusterError, match="no scheduler of Dask answers at 'tcp://127.0.0.1:1'"),
        places.client_of(Place(scheduler="tcp://127.0.0.1:1"), threads=1, gpus=0, wanted=lambda: 1),
    ):
        pass


def test_a_worker_whose_code_changed_ends_the_run(executor):
    """In one line: every stage that is left would end in it."""
    executor.gather()

    def fail():
        raise CodeChangedError("the code changed")

    job = Job("s", ["a"], arguments=(fail,))
    executor.start(job, executor.free(job))
    with pytest.raises(CodeChangedError, match="^the code changed$"):
        happen(executor)


def complaint(capsys, *arguments):
    """What a command that is wrong prints, and its exit code."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--workers", "0"], "--workers: found 0, wanted 1 or more"),
        (["--workers", "1", "--scheduler", "tcp://x:1"], "found --workers and --scheduler, wanted one of"),
        (["--patience", "0"], "--patience: found 0, wanted more than 0 minutes"),
        (["nothing"], "nothing: no stage of dvc.yaml; `dvc stage list` prints them"),
        (["--cluster", "no.yaml"], "--cluster: no.yaml: cannot be read: No such file or directory"),
        (["--scheduler", "tcp://127.0.0.1:1"], "no scheduler of Dask answers at 'tcp://127.0.0.1:1'"),
        (["--scheduler", "nonsense://x"], "no scheduler of Dask answers at 'nonsense://x'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(toy, capsys, monkeypatch, arguments, line):
    """With exit code 2, before anything is made."""
    toy()
    monkeypatch.setattr(places, "CONNECTING", "0.3s")
    code, text = complaint(capsys, "repro", *arguments)
    assert code == 2 and text.count("\n") == 1 and line in text
    assert not Path("data").exists()


@pytest.mark.parametrize("command", [["run", "digits"], ["study", "ablation"]])
def test_profiles_and_studies_refuse_the_same(toy, capsys, monkeypatch, command):
    """They take the same options."""
    toy()
    code, text = complaint(capsys, *command, "--workers", "0")
    assert code == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [", "not valid YAML"),
        ("jobqueue: {}", "found none under jobqueue"),
        ("jobqueue: {slurm: {}, pbs: {}}", "found slurm, pbs under jobqueue"),
        ("jobqueue: {cray: {}}", "found cray under jobqueue, wanted one of slurm"),
        ("jobqueue: {slurm: 3}", "found slurm under jobqueue"),
        ("slurm: {cores: 1}", "found none under jobqueue"),
        ("jobqueue: {local: {}}\ndistributed:\n", "distributed: found None, wanted keys with values"),
        ("jobqueue: {local: {}}\ndistributed: {adaptive: 3}", "distributed.adaptive: found 3, wanted keys"),
        ("jobqueue: {local: {}}\ndistributed: {adaptive: {minimum: '1'}}", "adaptive.minimum: found '1', wanted a wh"),
        ("jobqueue: {local: {}}\ndistributed: {adaptive: {maximum: 0}}", "found minimum 0 and maximum 0, wanted a"),
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(tmp_path, text, found):
    """With what is wrong."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ParameterError, match=found):
        read_cluster(tmp_path / "c.yaml")


def test_without_dask_one_line_says_how_to_get_it(toy, capsys, monkeypatch):
    """It is an extra."""
    toy()
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    code, text = complaint(capsys, "repro")
    assert code == 2 and "distributed is not installed; `pip install 'ims3[cluster]'` brings it" in text


def test_nothing_of_dask_is_loaded_without_need():
    """Commands that do not ask for workers start as quickly as before."""
    import subprocess

    code = "import sys; import ims3core.cli; print([m for m in ('dask', 'distributed', 'torch', 'dvc') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_workers_on_this_machine_have_a_gpu_each(monkeypatch):
    """One of those that this process may use."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [places._visible(number, 2) for number in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert [places._visible(number, 2) for number in range(2)] == ["4", "GPU-7"]
