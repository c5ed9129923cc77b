"""Scratch work: resumed under the same fingerprint, dropped under another, one writer at a time."""

import multiprocessing
import time

import pytest

from ims3core import files, scratch


def silent(line):
    raise AssertionError(line)


@pytest.fixture
def source(tmp_path):
    files.write_json(tmp_path / "in/x.json", 1)
    files.write_manifest(tmp_path / "in", "input")
    return tmp_path / "in"


def test_the_fingerprint_follows_parameters_and_inputs(source):
    """Equal facts give equal keys; another parameter or another input file another."""
    key = scratch.fingerprint({"a": 1}, [source])
    assert scratch.fingerprint({"a": 1}, [source]) == key
    assert scratch.fingerprint({"a": 2}, [source]) != key
    files.write_json(source / "x.json", 2)
    files.write_manifest(source, "input")
    assert scratch.fingerprint({"a": 1}, [source]) != key


def test_shards_of_an_interrupted_run_are_found_again(tmp_path):
    """The same key sees them, another key does not and clears them."""
    with scratch.workspace(tmp_path, "s", "k1", silent) as work:
        (work.path / "shard").write_text("done")
    with scratch.workspace(tmp_path, "s", "k1", silent) as work:
        assert (work.path / "shard").read_text() == "done"
    with scratch.workspace(tmp_path, "s", "k2", silent) as work:
        assert list(work.path.iterdir()) == []
    assert not (tmp_path / "scratch/s/k1").exists()


def test_publishing_moves_the_output_and_leaves_no_work(tmp_path):
    """The target is complete, the scratch directory gone."""
    with scratch.workspace(tmp_path, "s", "k", silent) as work:
        files.write_json(work.staged / "x.json", 1)
        work.publish(tmp_path / "data/out", "thing", n=1)

    assert files.read_manifest(tmp_path / "data/out", "thing") == {"n": 1}
    assert not work.path.exists()


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
