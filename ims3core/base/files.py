"""Reading and writing: the only module that knows file formats.

Everything is written to a temporary sibling and renamed; a directory is an *artifact* once its
``manifest.json`` exists, which is written last and holds the size and SHA-256 of every file in it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from ims3core.base.library_errors import reason
from ims3core.base.records import ListedFile, Record, malformed, stale
from ims3core.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    import torch

MANIFEST = "manifest.json"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # said of writes, often without a name
R = TypeVar("R", bound=Record)


class Manifest(Record):
    """The manifest of an artifact: what it is, facts about it, and its files."""

    format: Literal[1]
    kind: str
    facts: dict[str, Any]
    files: dict[str, ListedFile]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; when the block ends, ``path`` holds all of it, else what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            temporary.touch()  # as the umask says; safetensors makes files that only their owner reads
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk, a full one above all, become an OSError that names ``path`` where they name nothing."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno in DISK and error.filename is None:
            error.filename = str(path)
        raise
    except SafetensorError as error:
        number = int(found[1]) if (found := re.search(r"os error (\d+)", str(error))) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` so that ``path`` holds all of it or what it held before."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON with sorted keys and a final newline, so that equal values are equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as :func:`json_bytes`."""
    write_bytes(path, json_bytes(value))


def read_bytes(path: Path) -> bytes:
    """The content of ``path``; an ArtifactError names a missing file."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; `dvc repro` makes it") from error


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def read_json(path: Path, schema: Any = Any) -> Any:
    """The JSON value in ``path``, checked against ``schema``: a :class:`Record` or any other annotation.

    Raises:
        ArtifactError: naming the file that is missing or malformed, its first offending key and what was found.
    """
    try:
        return _adapter(schema).validate_json(read_bytes(path), strict=True)
    except ValidationError as error:
        raise malformed(path, error) from error


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table; ``None`` becomes an empty cell, floats keep their shortest exact form."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_csv(path: Path) -> list[list[str]]:
    """The lines of a table, its head first, all as long as that.

    Raises:
        ArtifactError: naming the file and line: missing, cut short, no text, or other numbers of cells.
    """
    try:
        text = read_bytes(path).decode()
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise stale(path, f"not a table ({error})") from error
    if not text.endswith("\n"):
        raise stale(path, "not a table, or cut short: its last line has no end")
    for number, cells in enumerate(lines, start=1):
        if len(cells) != len(lines[0]):
            raise stale(path, f"line {number}: found {len(cells)} cells, wanted {len(lines[0])}")
    return lines


def read_table(path: Path, schema: type[R]) -> list[R]:
    """The rows of a table whose columns are the fields of ``schema``; an empty cell is None.

    Raises:
        ArtifactError: as :func:`read_csv`, and naming the line and column of a value of another type or range.
    """
    head, *lines = read_csv(path)
    if head != (columns := list(schema.model_fields)):
        raise stale(path, f"columns {head}, wanted {columns}")
    rows = []
    for number, cells in enumerate(lines, start=2):
        filled = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
        try:
            rows.append(schema.model_validate_strings(filled, strict=True))
        except ValidationError as error:
            raise malformed(path, error, f"line {number}") from error
    return rows


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, dict(metadata or {}))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; an ArtifactError names a missing or truncated one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; `dvc repro` makes it") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: not a complete safetensors file ({error})") from error


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(directory: Path, kind: str, **facts: Any) -> None:
    """Completes ``directory``: writes the manifest of every file in it, with ``facts`` about them."""
    files = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(directory / MANIFEST, {"format": 1, "kind": kind, "facts": facts, "files": files})


def read_manifest(directory: Path, kind: str, schema: Any = dict[str, Any]) -> Any:
    """The facts of the complete artifact ``directory``, as ``schema`` describes them.

    Raises:
        ArtifactError: naming the file if it is missing, has another size or other content than the
            manifest says, or if the artifact is of another kind.
    """
    facts = read_facts(directory, kind, schema)
    for name, entry in read_json(directory / MANIFEST, Manifest).files.items():
        _check(directory / name, entry)
    return facts


def read_facts(directory: Path, kind: str, schema: Any) -> Any:
    """As :func:`read_manifest`, for those who open no other file of the artifact: none is compared."""
    path = directory / MANIFEST
    manifest = read_json(path, Manifest)
    if manifest.kind != kind:
        raise ArtifactError(f"{path}: found a {manifest.kind!r} artifact, wanted {kind!r}")
    try:
        return _adapter(schema).validate_python(manifest.facts, strict=True)
    except ValidationError as error:
        raise malformed(path, error, "facts") from error


def checked(path: Path) -> Path:
    """``path``, one file of an artifact, which is compared with the manifest beside it; an ArtifactError says why not.

    A folder without a manifest promises nothing.
    """
    if (manifest := path.with_name(MANIFEST)).is_file():
        if (entry := read_json(manifest, Manifest).files.get(path.name)) is None:
            raise ArtifactError(f"{manifest}: does not list {path.name}")
        _check(path, entry)
    return path


def _check(path: Path, entry: ListedFile) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: listed in the manifest but missing; `dvc repro` makes it")
    if (size := path.stat().st_size) != entry.size:
        raise ArtifactError(f"{path}: found {size} bytes, the manifest says {entry.size}; truncated?")
    if sha256(path) != entry.sha256:
        raise ArtifactError(f"{path}: content differs from the SHA-256 in the manifest")


def manifest_digest(directory: Path) -> str:
    """A fingerprint of an artifact's content: the SHA-256 of its manifest."""
    path = directory / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; `dvc repro` makes it")
    return sha256(path)


def replace_directory(staged: Path, target: Path) -> None:
    """Moves the finished directory ``staged`` to ``target``; what was there stays until the new one is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.replace(old)
    staged.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def png_bytes(image: torch.Tensor) -> bytes:
    """The PNG of a uint8 image (channels, height, width) with one or three channels."""
    from PIL import Image

    array = image.cpu().numpy()
    picture = Image.fromarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def png_pixels(data: bytes, path: Path) -> np.ndarray:
    """The uint8 image (channels, height, width), grey or RGB, in the bytes of the PNG ``path``."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, array = picture.mode, np.array(picture)
    except (OSError, SyntaxError) as error:  # what Pillow raises on damaged files
        raise ArtifactError(f"{path}: not a readable PNG ({reason(error)})") from error
    if mode not in ("L", "RGB"):
        raise ArtifactError(f"{path}: image mode {mode}, wanted 8-bit L or RGB")
    return array[None] if mode == "L" else array.transpose(2, 0, 1)
