"""Work in scratch: resumed under the same fingerprint, dropped under another, one writer at a time."""

import multiprocessing
import shutil
import time

import pytest

from ims3core.base import files
from ims3core.pipeline.workspace import open_workspace


def test_units_of_an_interrupted_run_are_found_again(tmp_path, caplog):
    """The same fingerprint finds them, another one does not and clears them, and says so."""
    with open_workspace(tmp_path, "s", "k1") as work:
        (work.path / "shard").write_text("done")
    with open_workspace(tmp_path, "s", "k1") as work:
        assert (work.path / "shard").read_text() == "done"
    assert caplog.messages == []
    with open_workspace(tmp_path, "s", "k2") as work:
        assert list(work.path.iterdir()) == []
    assert not (tmp_path / "scratch/s/k1").exists()
    assert caplog.messages == [
        f"{tmp_path}/scratch/s/k1: deleted, unfinished work under other parameters, inputs or code"
    ]


def test_publishing_moves_the_output_and_leaves_no_work(tmp_path):
    """The target is complete, the scratch directory gone."""
    with open_workspace(tmp_path, "s", "k") as work:
        files.write_json(work.output / "x.json", 1)
        files.write_manifest(work.output, "thing", n=1)
        work.publish(tmp_path / "data/out", [])

    assert files.read_manifest(tmp_path / "data/out", "thing") == {"n": 1}
    assert not work.path.exists()


def publish(root, names):
    """A stage whose units are ``names``; returns those it had to make."""
    made = []
    with open_workspace(root, "s", "k", extent=names) as work:
        for name in names:
            if not work.has(name):
                with work.making(name) as path:
                    files.write_json(path, f"{name} {len(names)}")
                made.append(name)
            work.link(name, name)
        work.publish(root / "data/out", names)
    return made


def test_units_serve_a_larger_output(tmp_path):
    """Asked for more, only the new units are made, and the old ones are the same files."""
    assert publish(tmp_path, ["a", "b"]) == ["a", "b"]
    shutil.rmtree(tmp_path / "data")  # as DVC does before a stage runs
    assert publish(tmp_path, ["a", "b", "c"]) == ["c"]
    assert [files.read_json(tmp_path / "data/out" / name) for name in "abc"] == ["a 2", "b 2", "c 3"]
    assert (tmp_path / "data/out/a").stat().st_ino == (tmp_path / "scratch/s/k/a").stat().st_ino


def test_units_that_are_not_used_any_more_go(tmp_path):
    """What a smaller output does not contain is dropped when it is published."""
    publish(tmp_path, ["a", "b"])
    assert publish(tmp_path, ["a"]) == []
    assert publish(tmp_path, ["a", "b"]) == ["b"]


def test_a_unit_that_changed_is_made_again(tmp_path, caplog):
    """One whose bytes are not those that were published is not trusted, and a line says so."""
    publish(tmp_path, ["a", "b"])
    (tmp_path / "scratch/s/k/a").write_text("damaged")
    assert publish(tmp_path, ["a", "b"]) == ["a"]
    assert len(caplog.messages) == 1 and "changed since it was made" in caplog.messages[0]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"a": 1}', b'{"a": "no digest"}', b"\x00" * 80])
def test_without_its_ledger_no_unit_is_trusted(tmp_path, caplog, damage):
    """A damaged one stops nobody: the units that it vouched for are made again, and a line says so."""
    publish(tmp_path, ["a", "b"])
    (tmp_path / "scratch/s/k/ledger.json").write_bytes(damage)
    assert publish(tmp_path, ["a", "b"]) == ["a", "b"]
    (line,) = caplog.messages
    assert "ledger.json: " in line and line.endswith(": every unit is made again")


def test_a_unit_is_there_only_when_it_is_whole(tmp_path):
    """Interrupted between two files of a folder, it is not there; the rest of it does not come back."""
    with open_workspace(tmp_path, "s", "k") as work:
        with pytest.raises(KeyboardInterrupt), work.making("unit") as path:
            path.mkdir()
            (path / "one").write_text("1")
            raise KeyboardInterrupt
        assert not work.has("unit")
        with work.making("unit") as path:
            path.mkdir()
            (path / "two").write_text("2")
        assert [p.name for p in (work.path / "unit").iterdir()] == ["two"]


def slow_writer(root):
    with open_workspace(root, "s", "k") as work:
        (root / "started").touch()
        time.sleep(1)
        files.write_json(work.output / "x.json", "from the orphan")
        work.publish(root / "data/out", [])


@pytest.mark.parametrize("fingerprint", ["k", "other"])
def test_a_successor_waits_for_an_orphan(tmp_path, fingerprint, caplog):
    """It says so, and takes over what the orphan published if that is the same work."""
    orphan = multiprocessing.get_context("fork").Process(target=slow_writer, args=(tmp_path,))
    orphan.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)

    with open_workspace(tmp_path, "s", fingerprint) as work:
        already_published = work.already_published

    orphan.join()
    assert caplog.messages == [f"s: process {orphan.pid} is still at it; waiting for it to end"]
    assert already_published == (fingerprint == "k")


def test_unfinished_work_is_named_when_it_goes(tmp_path, caplog):
    """What was published goes without a word; an extension of it that was killed does not."""
    publish(tmp_path, ["a"])
    with open_workspace(tmp_path, "s", "other"):
        pass
    publish(tmp_path, ["a"])
    with open_workspace(tmp_path, "s", "k", extent=["a", "b"]) as work:
        (work.path / "b").write_text("killed before it was published")
    assert caplog.messages == []
    with open_workspace(tmp_path, "s", "third"):
        pass
    assert len(caplog.messages) == 1 and "/s/k: deleted, unfinished work" in caplog.messages[0]
