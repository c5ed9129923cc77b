"""Other checkouts: clones in scratch/runs, with real git."""

import subprocess
import sys
from pathlib import Path

import pytest

from ims3core.errors import ParameterError
from ims3core.params import parse
from ims3core.pipeline import checkouts, profiles
from ims3core.pipeline.places import Place

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def git(tmp_path):
    """A repository with one committed file; the fixture runs git in it."""

    def run(*arguments):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    run("init", "-q")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("1\n")
    (tmp_path / "notes.md").write_text("1\n")
    run("add", "-A")
    run("commit", "-qm", "start")
    return run


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (None, ["dvc", "repro", "students"]),
        (Place(workers=3), ["ims3core", "repro", "students", "--workers", "3", "--patience", "60"]),
        (Place(cluster=Path("/c.yaml"), patience=5), ["ims3core", "repro", "students", "--cluster", "/c.yaml", "--patience", "5"]),
    ],
)  # fmt: skip
def test_a_clone_is_run_by_dvc_or_on_workers(tmp_path, monkeypatch, place, words):
    """With the same options; what DVC then knows is kept even where a stage failed."""
    called = []
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.lock").write_text("schema: '2.0'")

    def call(folder, *command):
        called.append(list(command[2:]))
        raise ParameterError("a stage failed")

    monkeypatch.setattr(checkouts, "_call", call)
    with pytest.raises(ParameterError, match="a stage failed"):
        checkouts.reproduce(tmp_path, place, "students")
    assert called == [words] and (tmp_path / ".dvc/kept.lock").read_text() == "schema: '2.0'"


def test_uncommitted_names_what_differs_and_what_is_new(git, tmp_path):
    """Only under the places asked for; the first name is whole, although git pads its line."""
    assert checkouts.uncommitted(tmp_path, ["code"]) == []
    (tmp_path / "notes.md").write_text("2\n")
    assert checkouts.uncommitted(tmp_path, ["code"]) == []
    (tmp_path / "code/a.py").write_text("2\n")
    (tmp_path / "code/new.py").write_text("")
    assert checkouts.uncommitted(tmp_path, ["code"]) == ["code/a.py", "code/new.py"]


def test_an_experiment_of_the_same_name_makes_room_and_no_other(git, tmp_path, monkeypatch):
    """DVC keeps experiments as refs below the commit they were run on."""
    removed, commit = [], git("rev-parse", "HEAD")
    monkeypatch.setattr(checkouts, "dvc", lambda folder, *arguments: removed.append(arguments[-1]))
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/mine-0123", commit)
    for name in ("mine-0123", "mine-012", "other-0123"):
        checkouts.forget_experiment(tmp_path, name)
    assert removed == ["mine-0123"]


def test_a_clone_is_of_the_last_commit_and_keeps_what_dvc_knew(git, tmp_path):
    """Uncommitted work stays out; the lock file of the last run comes back; the cache is where DVC has been told.

    Before there was a run, what DVC knows in this folder counts, committed or not. Results that git keeps for DVC are
    those of the clone.
    """
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/größe.csv").write_text("of the default profile\n")
    git("add", "-A")
    git("commit", "-qm", "lock")
    for arguments in (("init", "-q"), ("config", "--local", "cache.dir", str(tmp_path / "elsewhere"))):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "code/a.py").write_text("uncommitted\n")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {a: {cmd: a}}\n")
    clone = tmp_path / "scratch/runs/mine"
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkouts, "_call", lambda folder, *command: calls.append(command[3:]))
        assert checkouts.prepare_clone(tmp_path, "mine") == clone
        assert (clone / "code/a.py").read_text() == "1\n" and calls == [
            ("config", "--local", "cache.dir", "../../../elsewhere")
        ]
        assert (clone / "dvc.lock").read_text() == "schema: '2.0'\nstages: {a: {cmd: a}}\n"
        (clone / ".dvc").mkdir(exist_ok=True)
        (clone / "dvc.lock").write_text("schema: '2.0'\nstages: {b: {cmd: b}}\n")
        (clone / "metrics/größe.csv").write_text("of the clone\n")
        (clone / "code/a.py").write_text("changed in the clone\n")
        checkouts.dvc(clone, "repro")
        checkouts.prepare_clone(tmp_path, "mine")
    assert (clone / "dvc.lock").read_text() == "schema: '2.0'\nstages: {b: {cmd: b}}\n" and (
        clone / "code/a.py"
    ).read_text() == "1\n"
    assert (clone / "metrics/größe.csv").read_text() == "of the clone\n"
    assert (tmp_path / "dvc.lock").read_text() == "schema: '2.0'\nstages: {a: {cmd: a}}\n"


@pytest.fixture
def victim(tmp_path_factory):
    """Somebody's repository elsewhere, with uncommitted work in it; all its files, for comparison."""
    folder = tmp_path_factory.mktemp("victim")
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    (folder / "work.py").write_text("committed\n")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*command, *arguments], cwd=folder, check=True)
    (folder / "work.py").write_text("hours of work\n")
    return folder


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["absolute", "upwards", "root", "typo", "empty", "dot", "long", "option"])
def test_a_name_that_is_no_committed_profile_touches_nothing(git, tmp_path, victim, kind):
    """Paths lead elsewhere, also where a repository is; a typo leaves nothing behind."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/mine.yaml").write_text("seed: 0\n")
    git("add", "-A")
    git("commit", "-qm", "profile")
    upwards = f"../../../{victim.name}"
    (tmp_path.parent / victim.name).symlink_to(victim) if not (tmp_path.parent / victim.name).exists() else None
    name = {
        "absolute": str(victim), "upwards": upwards, "root": "../..", "typo": "mone", "empty": "", "dot": ".",
        "long": "x" * 300, "option": "--upload-pack",
    }[kind]  # fmt: skip
    before = content(tmp_path) | content(victim)
    with pytest.raises(ParameterError, match=r"^profile: the last commit has no .*; known: mine$"):
        list(checkouts.run(tmp_path, name))
    with pytest.raises(ParameterError, match=r"^profile: found .*, wanted a plain name"):
        checkouts.prepare_clone(tmp_path, "../x" if kind == "typo" else name)
    assert content(tmp_path) | content(victim) == before
    assert not (tmp_path / "scratch").exists()


def test_a_profile_does_not_run_where_studies_do(git, tmp_path):
    """Their clone has settings of a study in it, and each would run the other's anew."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/studies.yaml").write_text("seed: 0\n")
    git("add", "-A")
    git("commit", "-qm", "profile")
    with pytest.raises(
        ParameterError, match=r"^profile: scratch/runs/studies is where studies run; wanted another name"
    ):
        list(checkouts.run(tmp_path, "studies"))
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("kind", ["repository", "link", "folder"])
def test_a_folder_that_was_not_made_here_is_never_touched(git, tmp_path, victim, kind):
    """Whatever stands where the clone would: a repository, a link to one, a folder inside this repository."""
    home = tmp_path / checkouts.HOME
    home.mkdir(parents=True)
    if kind == "repository":
        victim.rename(home / "mine")
    elif kind == "link":
        (home / "mine").symlink_to(victim)
    else:
        (home / "mine").mkdir()
        (home / "mine/notes.txt").write_text("mine\n")
    before = content(tmp_path)
    with pytest.raises(ParameterError, match=r"mine: found a folder that .* did not make"):
        checkouts.prepare_clone(tmp_path, "mine")
    assert content(tmp_path) == before


def test_what_is_the_users_is_lent_to_the_clone(tmp_path):
    """A relative path is one of this folder, also after it was pointed elsewhere; one out of it cannot be meant."""
    clone, place = tmp_path / "scratch/runs/mine", "downloads/pets"
    for name in ("downloads", "one", "two"):
        (tmp_path / name).mkdir()
    clone.mkdir(parents=True)
    own = tmp_path / place
    own.symlink_to(tmp_path / "one")
    for _ in range(2):
        checkouts.lend_data(tmp_path, clone, [place, None, str(tmp_path), "downloads/none", "imagenette"])
        assert [path.name for path in (clone / "downloads").iterdir()] == ["pets"]
        assert (clone / place).resolve() == tmp_path / "one"
    own.unlink()
    own.symlink_to(tmp_path / "two")
    checkouts.lend_data(tmp_path, clone, [place])
    assert (clone / place).resolve() == tmp_path / "two"
    (tmp_path / "two").rename(tmp_path / "three")
    own.unlink()
    own.mkdir()
    checkouts.lend_data(tmp_path, clone, [place])
    assert (clone / place).resolve() == own
    (tmp_path.parent / "cats").mkdir(exist_ok=True)
    with pytest.raises(ParameterError, match=r"\.\./cats: found a path out of this folder"):
        checkouts.lend_data(tmp_path, clone, ["../cats"])


@pytest.mark.parametrize("profile", ["imagewoof-ddvlcp", "imagenette-small"])
def test_paths_of_the_user_are_those_of_every_section(profile):
    """Images, models and captions."""
    tree = profiles.text(profiles.read(REPOSITORY, profile), profile, [])
    found = parse(tree).user_paths
    wanted = {"imagewoof-ddvlcp": {"imagenet", "captions.csv"}, "imagenette-small": {"downloads/imagenette"}}
    assert wanted[profile] <= set(found)
