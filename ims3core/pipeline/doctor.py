"""What ``ims3 doctor`` says of a machine and a checkout: plain lines to paste into an issue, faults marked with ``!``.

Nothing here may fail: what cannot be had is what the lines are about.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs
from packaging.requirements import Requirement

import ims3core
from ims3core.errors import Ims3Error
from ims3core.params import load
from ims3core.pipeline.mending import line, mend_lock, mend_results

LIBRARIES = ("torch", "torchvision", "diffusers", "timm", "kornia", "transformers", "numpy", "pydantic")
LEAST_FREE = 1 << 30  # bytes: less does not hold the results of the default profile and a generator


def examine(root: Path) -> Iterator[str]:
    """One line per thing that is looked at; those that begin with :data:`~mending.FAULT` need somebody to act."""
    yield from _software(root)
    yield from _machine(root)
    cache = _output(root, sys.executable, "-m", "dvc", "cache", "dir")
    yield from _dvc(root)
    yield from _git(root)
    yield from _disk(root, (root / cache).resolve() if cache else None)
    yield from _conflicts(root)


def _software(root: Path) -> Iterator[str]:
    yield line("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield line("python", f"{platform.python_version()} {sys.prefix}")
    version, stated = _version("ims3"), _stated_version(root)
    stale = stated and version != stated
    yield line(
        "ims3", f"{version or 'not installed'}, code in {Path(ims3core.__file__).parents[1]}",
        f"this folder is {stated}; `pip install --editable .` again" if stale else None,
    )  # fmt: skip
    for name in LIBRARIES:
        yield line(name, _version(name) or "not installed")


def _machine(root: Path) -> Iterator[str]:
    """Device, precision, compiler and threads as params.yaml asks for them, or as its defaults would."""
    asked: dict[str, Any] = {"device": "auto", "precision": "auto", "compile": True, "threads": 0}
    try:
        asked = load(root / "params.yaml").compute.model_dump()
        yield line("params.yaml", "valid")
    except (Ims3Error, OSError) as error:
        yield line("params.yaml", "", str(error).removeprefix("params.yaml: "))
    try:
        from ims3core.base import compute

        importlib.import_module("torchvision")  # beside a torch of another release it fails

        machine = compute.machine(**asked)
    except Ims3Error as error:
        yield line("device", "", str(error))
        return
    except Exception as error:  # a broken installation may raise anything
        yield line("torch", "cannot be used", f"{type(error).__name__}: {' '.join(str(error).split())}")
        return
    yield from _device(machine, asked)


def _device(machine: Any, asked: dict[str, Any]) -> Iterator[str]:
    import torch

    from ims3core.base import compute

    kind = machine.device.type
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    yield line(
        "device", f"{machine.device} (compute.device: {asked['device']}); {', '.join(names) or 'no GPU'}; {built}"
    )
    why = "as params.yaml says"
    if asked["precision"] == "auto":
        able = "computes" if machine.precision == "bf16" else "does not compute"
        why = f"this {'GPU' if kind == 'cuda' else 'processor'} {able} bf16 quickly"
    yield line("precision", f"{machine.precision} (compute.precision: {asked['precision']}; {why})")
    reason = compute.compiler_fault(machine.device)
    triton = f", triton {_version('triton')}" if kind == "cuda" else ""
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "no C++ compiler on PATH")
    found = f"{found}{triton}; compute.compile: {str(asked['compile']).lower()}"
    yield line("compiler", found, f"{reason}; networks run uncompiled, slower" if reason and asked["compile"] else None)
    cores = len(os.sched_getaffinity(0))
    waiting = ", ".join(f"{name}={os.environ[name]}" for name in ims3core.WAITING if name in os.environ)
    yield line(
        "threads", f"{torch.get_num_threads()} of {cores} cores (compute.threads: {asked['threads']}); {waiting}"
    )


def _dvc(root: Path) -> Iterator[str]:
    version = _version("dvc")
    missing = None if version else "not installed in this Python; `pip install --editable .`"
    if version and not (root / ".dvc").is_dir():
        missing = "no .dvc folder here; this is no checkout, or `dvc init` is due"
    yield line("dvc", version or "", missing)
    yield from mend_lock(root / ".dvc/tmp")
    yield from mend_results(root)


def _git(root: Path) -> Iterator[str]:
    if not shutil.which("git"):
        yield line("git", "not installed; `ims3 run`, `ims3 study` and `dvc exp` need it", _no_scm(root))
        return
    commit = _output(root, "git", "log", "-1", "--format=%h %cs")
    if not commit:
        yield line("git", "no commit here; `ims3 run`, `ims3 study` and `dvc exp` need one", _no_scm(root))
        return
    changed = len((_output(root, "git", "status", "--porcelain") or "").splitlines())
    shallow = ", shallow" if _output(root, "git", "rev-parse", "--is-shallow-repository") == "true" else ""
    yield line("git", f"commit {commit}{shallow}, {changed} files differ from it")


def _no_scm(root: Path) -> str | None:
    """What to do so that DVC works in a folder without git; None where it was done."""
    if _output(root, sys.executable, "-m", "dvc", "config", "core.no_scm") == "true":
        return None
    return "`dvc config core.no_scm true` lets `dvc repro` work without"


def _disk(root: Path, cache: Path | None) -> Iterator[str]:
    """Free space, and whether the folders outside of git can be written."""
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path(platformdirs.user_cache_dir("ims3"), "compiled")
    folders = {
        "scratch": root / "scratch", "dvc cache": cache, "rates": Path(platformdirs.user_cache_dir("ims3")),
        "compiled": Path(compiled), "hub": Path(hub).expanduser(), "temporary": Path(tempfile.gettempdir()),
    }  # fmt: skip
    for name, folder in folders.items():
        if folder is None:
            continue
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                free = shutil.disk_usage(place).free
        except OSError as error:
            yield line(name, f"{folder}", f"cannot be written ({error.strerror})")
            continue
        yield line(name, f"{folder}, {free / 1e9:.0f} GB free", "the disk is full" if free < LEAST_FREE else None)


def _conflicts(root: Path) -> Iterator[str]:
    """What is known to go wrong and says something else when it does."""
    for text in _requirements():
        requirement = Requirement(text)
        version = _version(requirement.name)
        if version and not requirement.specifier.contains(version, prereleases=True):
            yield line(requirement.name, version, f"ims3 needs {requirement.specifier}")
    code = Path(ims3core.__file__).parents[1]
    if (root / "ims3core").is_dir() and code != root.resolve():
        yield line("code", f"{code}", f"not of this folder, {root.resolve()}; `pip install --editable .` here")
    prefix = _output(root, "python", "-c", "import sys; print(sys.prefix)")
    if prefix != sys.prefix:
        yield line(
            "python", f"on PATH: {prefix or 'none'}", "dvc.yaml's commands run with it; activate the environment"
        )
    for name in ("WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        if name in os.environ:
            launched = "stages would wait for other processes; unset it" if name == "WORLD_SIZE" else None
            yield line(name, os.environ[name], launched)


def _requirements() -> list[str]:
    """The requirements of the installed package; optional ones are those with a marker."""
    try:
        return [text.split(";")[0] for text in metadata.requires("ims3") or []]
    except metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _stated_version(root: Path) -> str | None:
    """The version in the pyproject.toml of ``root``, if it is one of this project."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"]) if project["name"] == "ims3" else None
    except (OSError, ValueError, KeyError):
        return None


def _output(folder: Path, *command: str) -> str | None:
    """What a command prints; None if it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
