"""Scratch work: resumed under the same fingerprint, dropped under another, one writer at a time."""

import multiprocessing
import shutil
import time

import pytest

from ims3core.base import files
from ims3core.shell import scratch


def silent(line):
    raise AssertionError(line)


@pytest.fixture
def source(tmp_path):
    files.write_json(tmp_path / "in/x.json", 1)
    files.write_manifest(tmp_path / "in", "input")
    return tmp_path / "in"


def test_the_fingerprint_follows_parameters_and_inputs(source):
    """Equal facts give equal keys; another parameter or another input file another."""
    key = scratch.fingerprint({"a": 1}, [source], "code")
    assert scratch.fingerprint({"a": 1}, [source], "code") == key
    assert scratch.fingerprint({"a": 2}, [source], "code") != key
    assert scratch.fingerprint({"a": 1}, [source], "other code") != key
    files.write_json(source / "x.json", 2)
    files.write_manifest(source, "input")
    assert scratch.fingerprint({"a": 1}, [source], "code") != key


def test_shards_of_an_interrupted_run_are_found_again(tmp_path):
    """The same key sees them, another key does not and clears them, and says so."""
    with scratch.workspace(tmp_path, "s", "k1", silent) as work:
        (work.path / "shard").write_text("done")
    with scratch.workspace(tmp_path, "s", "k1", silent) as work:
        assert (work.path / "shard").read_text() == "done"
    said = []
    with scratch.workspace(tmp_path, "s", "k2", said.append) as work:
        assert list(work.path.iterdir()) == []
    assert not (tmp_path / "scratch/s/k1").exists()
    assert said == [f"{tmp_path}/scratch/s/k1: deleted, unfinished work under other parameters, inputs or code"]


def test_publishing_moves_the_output_and_leaves_no_work(tmp_path):
    """The target is complete, the scratch directory gone."""
    with scratch.workspace(tmp_path, "s", "k", silent) as work:
        files.write_json(work.staged / "x.json", 1)
        work.publish(tmp_path / "data/out", "thing", n=1)

    assert files.read_manifest(tmp_path / "data/out", "thing") == {"n": 1}
    assert not work.path.exists()


def publish(root, names, say=silent):
    """A stage whose parts are ``names``; returns those it had to make."""
    made = []
    with scratch.workspace(root, "s", "k", say, extent=names) as work:
        for name in names:
            if not work.has(name):
                files.write_json(work.path / name, f"{name} {len(names)}")
                made.append(name)
            work.use(name)
        work.publish(root / "data/out", "thing")
    return made


def test_parts_serve_a_larger_output(tmp_path):
    """Asked for more, only the new parts are made, and the old ones are the same files."""
    assert publish(tmp_path, ["a", "b"]) == ["a", "b"]
    shutil.rmtree(tmp_path / "data")  # as DVC does before a stage runs
    assert publish(tmp_path, ["a", "b", "c"]) == ["c"]
    assert [files.read_json(tmp_path / "data/out" / name) for name in "abc"] == ["a 2", "b 2", "c 3"]
    assert (tmp_path / "data/out/a").stat().st_ino == (tmp_path / "scratch/s/k/a").stat().st_ino


def test_parts_that_are_not_used_any_more_go(tmp_path):
    """What a smaller output does not contain is dropped when it is published."""
    publish(tmp_path, ["a", "b"])
    assert publish(tmp_path, ["a"]) == []
    assert publish(tmp_path, ["a", "b"]) == ["b"]


def test_a_part_that_changed_is_made_again(tmp_path):
    """One whose bytes are not those that were published is not trusted, and a line says so."""
    publish(tmp_path, ["a", "b"])
    lines = []
    (tmp_path / "scratch/s/k/a").write_text("damaged")
    assert publish(tmp_path, ["a", "b"], lines.append) == ["a"]
    assert len(lines) == 1 and "changed since it was made" in lines[0]


def test_a_folder_is_a_part_only_when_it_is_whole(tmp_path):
    """Interrupted between two files of it, it is not there."""
    with pytest.raises(KeyboardInterrupt), scratch.whole(tmp_path / "part") as staged:
        (staged / "one").write_text("1")
        raise KeyboardInterrupt
    assert not (tmp_path / "part").exists()
    with scratch.whole(tmp_path / "part") as staged:
        (staged / "two").write_text("2")
    assert [p.name for p in (tmp_path / "part").iterdir()] == ["two"]


def slow_writer(root):
    with scratch.workspace(root, "s", "k", print) as work:
        (root / "started").touch()
        time.sleep(1)
        files.write_json(work.staged / "x.json", "from the orphan")
        work.publish(root / "data/out", "thing")


@pytest.mark.parametrize("key", ["k", "other"])
def test_a_successor_waits_for_an_orphan(tmp_path, key):
    """It says so, and takes over what the orphan published if that is the same work."""
    orphan = multiprocessing.get_context("fork").Process(target=slow_writer, args=(tmp_path,))
    orphan.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    lines = []

    with scratch.workspace(tmp_path, "s", key, lines.append) as work:
        finished = work.finished_elsewhere

    orphan.join()
    assert lines == [f"s: process {orphan.pid} is still at it; waiting for it to end"]
    assert finished == (key == "k")


def test_work_beside_a_published_one_is_named_when_it_goes(tmp_path):
    """What was published goes without a word; an extension of it that was killed does not."""
    publish(tmp_path, ["a"])
    with scratch.workspace(tmp_path, "s", "other", silent):
        pass
    publish(tmp_path, ["a"])
    with scratch.workspace(tmp_path, "s", "k", silent, extent=["a", "b"]) as work:
        (work.path / "b").write_text("killed before it was published")
    said = []
    with scratch.workspace(tmp_path, "s", "third", said.append):
        pass
    assert len(said) == 1 and "/s/k: deleted, unfinished work" in said[0]
