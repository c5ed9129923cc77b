"""Folders as people have them: links, spellings of names, and what programs leave behind."""

from __future__ import annotations

import filecmp
import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ims3core.errors import DataError, some
from ims3core.ingest.classes import normal

NOT_IMAGES = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"}
NOT_CLASSES = {
    "__macosx", "network trash folder", "temporary items",  # of macOS
    "$recycle.bin", "recycler", "system volume information", "found.000",  # of Windows
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "lost+found",  # of disks in a network
    "__pycache__",
}  # fmt: skip
TEXTS = (
    ".csv", ".tsv", ".json", ".jsonl", ".txt", ".xml", ".md", ".yaml", ".yml", ".parquet", ".xlsx",
    ".mat", ".npy", ".npz", ".pkl", ".h5", ".hdf5",
)  # fmt: skip
DEEPEST = 8  # single folders inside each other that are followed to a meant one


def can_be_class(name: str) -> bool:
    """Whether a folder can be a class: not hidden, and none that a system leaves."""
    return not name.startswith(".") and name.lower() not in NOT_CLASSES


def class_folders(path: Path) -> list[Path]:
    """The folders directly in ``path`` that can be classes or splits, sorted."""
    return sorted(child for child in path.iterdir() if child.is_dir() and can_be_class(child.name))


def lost_links(path: Path) -> list[Path]:
    """The links directly in ``path`` to what is not there, which may be classes on a disk that is not mounted."""
    return sorted(child for child in path.iterdir() if child.is_symlink() and not child.exists()
                  and can_be_class(child.name))  # fmt: skip


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder`` that is not hidden, nor in a hidden folder, sorted; as :func:`names_below`."""
    return [folder / name for name in names_below(folder)]


def names_below(folder: Path) -> list[str]:
    """The names, with folders, of all files below ``folder`` that are not hidden, nor in a hidden folder.

    Sorted folder by folder, as paths are; links are followed.

    Raises:
        DataError: a link that leads to a folder it is in itself.
        OSError: a folder that cannot be read.
    """
    found: list[str] = []
    top = len(os.path.join(folder, ""))  # noqa: PTH118
    _check_link(folder, folder)
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        folders[:] = [name for name in folders if can_be_class(name)]
        for name in folders:
            _check_link(Path(place, name), folder)
        front = f"{place[top:]}/" if len(place) > top else ""
        found += [front + name for name in names if not name.startswith(".") and name.lower() not in NOT_IMAGES]
    return sorted(found, key=lambda name: name.split("/"))


def _raise(error: OSError) -> None:
    raise error


def _check_link(place: Path, top: Path) -> None:
    """Raises a DataError if ``place`` is a link to a folder around it, on the disk or on the way from ``top``."""
    if not place.is_symlink():
        return
    target, real = place.resolve(), place.parent.resolve()
    way = {folder.resolve() for folder in place.parents if folder == top or top in folder.parents}
    if target in {real, *real.parents, *way}:
        raise DataError(f"data.path: {place}: a link to {target}, a folder that it is in itself; wanted no such link")


def check_names(names: Iterable[str], where: Path) -> None:
    """Raises a DataError for the first name that is no UTF-8, which files and tables of results cannot hold."""
    for name in names:
        if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
            raise DataError(
                f"data.path: {where}: the name {name} is not in UTF-8 (an archive from a machine with another "
                "encoding?); wanted it renamed, which `convmv` does for whole folders"
            )


def by_spelling(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their name in one spelling of Unicode.

    Raises:
        DataError: two names that look alike.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if (twin := found.setdefault(normal(folder.name), folder)) != folder:
            lengths = sorted((len(twin.name), len(folder.name)))
            raise DataError(
                f"data.path: {folder.parent}: two folders {folder.name!r} look alike, one name in two spellings of "
                f"Unicode (NFC and NFD, {' and '.join(map(str, lengths))} characters); wanted one folder of both"
            )
    return found


@functools.cache
def picture_endings() -> frozenset[str]:
    """The endings of files that are pictures, as ``.png``."""
    from PIL import Image

    return frozenset(
        {*Image.registered_extensions(), ".heic", ".heif", ".svg"} - {".pdf", ".mpg", ".mpeg", ".h5", ".hdf"}
    )


def is_picture(name: str) -> bool:
    """Whether a file that is not hidden is a picture by its ending."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in picture_endings()  # noqa: PTH122


def loose_pictures(path: Path) -> list[str]:
    """The names of the pictures directly in ``path``, sorted."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if is_picture(entry.name) and not entry.is_dir())


def holds_only_texts(folder: Path) -> bool:
    """Whether a folder has files, there or further down, and all are tables, texts or arrays by their endings."""
    found, waiting = False, [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not can_be_class(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not entry.name.lower().endswith(TEXTS) or not entry.is_file():
                    return False
                else:
                    found = True
    return found


def only_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder without pictures of its own, sorted; [] where it has some."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_picture(entry.name) and not entry.is_dir():
                return []
            if can_be_class(entry.name) and entry.is_dir():
                names.append(entry.name)
    return sorted(names)


def first_files(folder: Path, most: int = 3) -> list[Path]:
    """Some files of a folder or, where there are none, of the first folder in it that has some."""
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if can_be_class(name))
        visible = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        if found := [file for file in visible if file.is_file()]:
            return found[:most]
    return []


def deeper(path: Path) -> Path | None:
    """The folder below ``path``, along single folders, that holds several; None where pictures lie side by side."""
    for _ in range(DEEPEST):
        children = class_folders(path)
        if len(children) != 1:
            return path if children else None
        path = children[0]
    return None


def are_copies(files: Sequence[Path]) -> bool:
    """Whether all files have the same bytes."""
    return all(filecmp.cmp(files[0], other, shallow=False) for other in files[1:])


def content(path: Path) -> str:
    """What is in a folder without class folders, for a message."""
    from ims3core.base.formats import disguised_as, format_of

    if pictures := loose_pictures(path):
        return f"{len(pictures):,} pictures side by side ({some(pictures, 3)})"
    files = first_files(path, 20)
    archives = [f"{file.name}, {kind}" for file in files if "archive" in (kind := format_of(file) or "")]
    if archives:
        return f"{some(archives, 2)}; wanted it unpacked"
    kinds = [
        f"{file.relative_to(path).as_posix()}, {disguised_as(file) or format_of(file) or 'a file'}"
        for file in files[:3]
    ]
    return "; ".join(kinds) or "nothing"
