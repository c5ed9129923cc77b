"""Runs other parameters in another checkout: a clone of the last commit that shares DVC's cache.

params.yaml, dvc.lock and the results of this checkout stay as they are. The clone stays in ``scratch/runs`` and is
taken up again, so that a run that was killed goes on and one that is repeated does nothing.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ims3core.base import files
from ims3core.errors import ParameterError
from ims3core.pipeline.places import Place

log = logging.getLogger(__name__)
HOME = Path("scratch/runs")
RESULTS = Path("metrics/profiles")
STUDIES = "studies"  # the clone in which studies run
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
MADE_HERE = "ims3.clone"  # in the git configuration of every clone that was made here
KEPT = (
    "metrics/accuracy.csv", "metrics/comparisons.csv", "metrics/coverage.csv", "metrics/cost.csv",
    "metrics/plots/samples.png", "reports/index.html",
)  # fmt: skip


def run(root: Path, profile: str, place: Place | None = None) -> Iterator[str]:
    """Reproduces ``profile`` in a clone and leaves :data:`KEPT` of it in metrics/profiles/<profile>; yields lines.

    Args:
        place: where workers are that make its pieces; None: DVC alone.

    Raises:
        ParameterError: not a git repository, no such profile in its last commit, or a stage that failed.
    """
    from ims3core.params import load

    if profile not in (known := committed_profiles(root)):
        raise ParameterError(f"profile: the last commit has no {profile!r}; known: {', '.join(known)}")
    if profile == STUDIES:
        raise ParameterError(
            f"profile: {HOME / STUDIES} is where studies run; wanted another name for profiles/{STUDIES}.yaml"
        )
    clone = prepare_clone(root, profile)
    if uncommitted(root, ("ims3core", "stages", "profiles", "dvc.yaml")):
        yield "uncommitted changes of code and profiles do not count: the last commit is run"
    _call(clone, sys.executable, "-m", "ims3core", "use", profile, "--force")
    lend_data(root, clone, load(clone / "params.yaml").user_paths)
    yield f"{profile}: {'ims3' if place else 'dvc'} repro in {clone}"
    reproduce(clone, place)
    markdown = subprocess.run(
        [sys.executable, "-m", "ims3core", "report", "--markdown"], cwd=clone, capture_output=True, check=True,
        env=_environment(clone),
    ).stdout  # fmt: skip
    home = root / RESULTS / profile
    home.mkdir(parents=True, exist_ok=True)
    (home / "tables.md").write_bytes(markdown)
    for path in KEPT:
        shutil.copyfile(clone / path, home / Path(path).name)
    yield f"{RESULTS / profile}: {', '.join(sorted(path.name for path in home.iterdir()))}"


def require_commit(root: Path) -> None:
    """Raises a ParameterError with the way out if no commit holds ``root``, as in an archive; a part of one may."""
    try:
        commit = _try_git(root, "rev-parse", "--quiet", "--verify", "HEAD")
    except FileNotFoundError:
        missing = "no git is installed"
    else:
        prefix = _try_git(root, "rev-parse", "--show-prefix").strip()
        if commit and (not prefix or _try_git(root, "ls-tree", "HEAD", "dvc.yaml")):
            return
        toplevel = _try_git(root, "rev-parse", "--show-toplevel").strip()
        missing = f"the repository here is another, {toplevel}" if commit else "there is none here"
    raise ParameterError(
        f"`ims3 run` and `ims3 study` run the last git commit, and {missing}; `git init`, `git add -A` and "
        "`git commit -m start` make one. All else works without, `dvc repro` after `dvc config core.no_scm true`"
    )


def committed_profiles(root: Path) -> list[str]:
    """The names of the profiles in the last commit of ``root``, sorted."""
    require_commit(root)
    listed = _git(root, "-c", "core.quotePath=false", "ls-tree", "--name-only", "HEAD", "profiles/").splitlines()
    layers = _try_git(root, "grep", "-l", "^layer: true$", "HEAD", "--", "profiles/")
    names = {Path(name).stem for name in listed if name.endswith(".yaml")}
    return sorted(names - {Path(name).stem for name in layers.splitlines()})


def prepare_clone(root: Path, name: str) -> Path:
    """The clone ``name`` at the last commit of ``root``, with what DVC knew in it, at first with what it knows in root.

    What the commit says may be of another machine, and DVC would rather make that anew than look for its own results.
    A checkout is overwritten only where this function made it, which a key in its own git configuration says. Where
    the project is a folder of a bigger repository, all of that is cloned, and its folder in there comes back.

    Raises:
        ParameterError: ``name`` is no plain name but a path, or stands for a folder that was not made here.
    """
    if not NAME.fullmatch(name):
        raise ParameterError(f"profile: found {name!r}, wanted a plain name of letters, digits, '-' and '_'")
    home = (root / HOME).resolve()
    clone = home / name
    commit, prefix = _git(root, "rev-parse", "HEAD"), _git(root, "rev-parse", "--show-prefix")
    if not clone.exists() and not clone.is_symlink():
        home.mkdir(parents=True, exist_ok=True)
        whole = _git(root, "rev-parse", "--show-toplevel")
        _git(root, "clone", "--quiet", "--shared", "--config", f"{MADE_HERE}=true", whole, str(clone))
    elif clone.is_symlink() or not _is_made_here(clone):
        raise ParameterError(
            f"{clone}: found a folder that `ims3 run` and `ims3 study` did not make, which they will not overwrite; "
            "move it away"
        )
    _git(clone, "fetch", "--quiet", "origin", commit)
    changed = ("diff", "--name-only", "--diff-filter=d", "HEAD", "--", f"{prefix}metrics")
    names = _git(clone, "-c", "core.quotePath=false", *changed).splitlines()
    results = {clone / name: (clone / name).read_bytes() for name in names}
    _git(clone, "checkout", "--quiet", "--force", "--detach", commit)
    # The checkout has brought results and lock of the last commit back; DVC would run again what made the clone's own.
    for path, content in results.items():
        files.write_bytes(path, content)
    clone /= prefix
    known = next(filter(Path.is_file, (clone / ".dvc/kept.lock", root / "dvc.lock")), None)
    if known:
        shutil.copyfile(known, clone / "dvc.lock")
    cache = _output(root, sys.executable, "-m", "dvc", "cache", "dir")  # a user may have put it elsewhere
    # Relative, because DVC's configuration takes no letter beyond ASCII, which folders above the project may have.
    shared = os.path.relpath((root / cache).resolve(), clone)
    _call(clone, sys.executable, "-m", "dvc", "config", "--local", "cache.dir", shared)
    return clone


def lend_data(root: Path, clone: Path, paths: Sequence[str | None]) -> None:
    """Links files and folders of the user's that are named by a relative path into the clone: git carries none.

    Raises:
        ParameterError: a path that leads out of ``root``, which would lead elsewhere from the clone.
    """
    for path in paths:
        named = Path(path or "/").expanduser()
        place, own = clone / named, root / named
        if named.is_absolute() or not own.exists():
            continue
        if ".." in named.parts:
            raise ParameterError(f"{named}: found a path out of this folder, wanted an absolute one, to run in a clone")
        if place.is_symlink() and place.resolve() != own.resolve():
            place.unlink()  # what it meant has moved since
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(own.resolve())


def dvc(clone: Path, *arguments: str) -> None:
    """Runs DVC in a clone with the clone's own code; what it then knows is kept for the next time.

    A lock that an interrupt left damaged is mended before: nobody would look for it in here.
    """
    from ims3core.pipeline.mending import mend_lock, mend_results

    for line in (*mend_lock(clone / ".dvc/tmp"), *mend_results(clone)):
        log.info("%s", line.strip())
    try:
        _call(clone, sys.executable, "-m", "dvc", *arguments)
    finally:
        _keep_lock(clone)


def _keep_lock(clone: Path) -> None:
    if (lock := clone / "dvc.lock").is_file():  # one that could not be read was removed
        shutil.copyfile(lock, clone / ".dvc/kept.lock")


def reproduce(clone: Path, place: Place | None, *targets: str) -> None:
    """Runs the stages ``targets``, or all, in a clone, on the workers of ``place`` or by DVC alone."""
    if place is None:
        dvc(clone, "repro", *targets)
        return
    try:
        _call(clone, sys.executable, "-m", "ims3core", "repro", *targets, *place.options())
    finally:
        _keep_lock(clone)


def forget_experiment(clone: Path, name: str) -> None:
    """Makes room for an experiment of this name; DVC's own way, ``--force``, would run every stage again."""
    if _git(clone, "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}"):
        dvc(clone, "exp", "remove", "--quiet", name)


def uncommitted(root: Path, places: Sequence[str]) -> list[str]:
    """The files under ``places`` that differ from the last commit, or are not in it."""
    require_commit(root)
    found = _git(root, "-c", "core.quotePath=false", "status", "--porcelain", "--untracked-files=all", "--", *places)
    prefix = _git(root, "rev-parse", "--show-prefix")
    return [line[2:].strip().removeprefix(prefix) for line in found.splitlines()]


def _environment(clone: Path) -> dict[str, str]:
    """The clone's own code first."""
    return os.environ | {"PYTHONPATH": str(clone)}


def _call(folder: Path, *command: str) -> None:
    code = subprocess.run(command, cwd=folder, check=False, env=_environment(folder)).returncode
    if code:
        raise ParameterError(f"{' '.join(command[1:])} in {folder} ended with code {code}; see the lines above")


def _is_made_here(clone: Path) -> bool:
    """Whether ``clone`` is a repository of its own that :func:`prepare_clone` made; git itself looks in parents too."""
    command = ["git", "config", "--file", str(clone / ".git/config"), "--get", MADE_HERE]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "true"


def _try_git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where it finds nothing."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False).stdout


def _git(folder: Path, *arguments: str) -> str:
    return _output(folder, "git", *arguments)


def _output(folder: Path, *command: str) -> str:
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if found.returncode:
        said = " ".join(command).removeprefix(f"{sys.executable} -m ")
        raise ParameterError(f"{said}: {' '.join(found.stderr.split())}")
    return found.stdout.rstrip()
