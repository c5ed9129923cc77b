"""A folder of class folders, ``path/<class>/files`` or ``path/<split>/<class>/files``, or of pictures and a table."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import format_of
from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError, some
from ims3core.ingest import folders, ilsvrc, joined, not_classes, numbered, tables
from ims3core.ingest.classes import normal, spelled_alike
from ims3core.ingest.listing import Files, Listing, role_named, roles


@dataclass(frozen=True)
class Layout:
    """Where the class folders are.

    Attributes:
        splits: the folders that hold them, each with its role.
        warnings: what the user should know about the splits.
        problem: why the folders are no classes, as a message; "" where they are.
        flat: folders of splits whose pictures are not in class folders, each with its role.
        inside: the class folders, where ``splits`` are folders in each of them.
    """

    splits: dict[Path, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problem: str = ""
    flat: dict[Path, str] = field(default_factory=dict)
    inside: list[Path] = field(default_factory=list)


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """Every file below a class folder as one image; hidden files are left out and hidden folders not looked into.

    ``val`` and the like are the test split where there is no ``test`` beside them, as in ImageNet. Every class folder
    gives a name, but only those among ``classes`` are looked into: ten classes of ImageNet need no list of its
    1.3 million files. Where the folders are no classes, a table beside the pictures is looked for.
    """
    path = _folder(section.path)
    if section.table:
        return tables.read(section, path, classes)
    if section.splits is None and (found := ilsvrc.read(path, classes) or numbered.read(path, classes)) is not None:
        return found
    with translate_errors(f"data.path: {path}"):
        layout = _layout(path, section.splits)
        names, spelled = _class_names(layout, classes)
        problem = layout.problem or ("" if layout.flat else _no_classes(layout, classes) or _empty(spelled, classes))
        why, doubtful = "", len(names) < 2 or _wants_table(section)
        if problem or doubtful:
            apart, meant = layout.splits if layout.flat else (), ""
            if not problem:
                meant = _meant(next(iter(layout.splits)), names)
            with _with_a_way(problem or meant):
                found = tables.find(section, path, classes, apart)
            if found is not None:
                return _joined(path, layout, found, classes) if layout.flat else found
            why = tables.unused(section, path, classes, apart)
    if problem:
        raise DataError(f"{problem}{why}" if problem.startswith("data.") else f"data.path: {problem}{why}")
    if _wants_table(section):
        key = "image_column" if section.image_column else "label_column"
        raise DataError(
            f"data.{key}: found no table that names pictures below {path}{why}; wanted null for class folders"
        )
    if doubtful and why:
        raise DataError(f"data.path: {path}: its folders ({some(names, 4)}) look like no classes{meant}{why}")
    listing = _listed(path, layout, names, spelled, classes)
    tables.beside_folders(section, path, listing)
    return listing


@contextlib.contextmanager
def _with_a_way(problem: str) -> Iterator[None]:
    """Adds what is said of the folders to an error about tables, where that names a key that reads the folders."""
    try:
        yield
    except DataError as error:
        if "data.path: " not in problem and "data.splits: {" not in problem:
            raise
        raise DataError(f"{error}; without a table: {problem.removeprefix('; ')}") from error


def _joined(path: Path, layout: Layout, found: Listing, classes: Collection[str] | None) -> Listing:
    """The class folders of some splits with what a table says of the others; only this where it labels them too."""
    if (outside := joined.outside(path, layout.flat, layout.splits, found)) is None:
        return found
    found, folder_of = outside
    names, spelled = _class_names(layout, classes)
    listing = _listed(path, layout, names, spelled, classes)
    return joined.join(path, listing, found, [layout.flat[folder] for folder in folder_of])


def _wants_table(section: Any) -> bool:
    return section.image_column is not None or section.label_column is not None


def _listed(
    path: Path, layout: Layout, names: list[str], spelled: dict[Path, dict[str, Path]], classes: Collection[str] | None
) -> Listing:
    """The files of all class folders."""
    origins, labels, splits = list[str](), list[int](), list[str]()
    for folder, split in layout.splits.items():
        for label, name in enumerate(names):
            if classes is not None and normal(name) not in classes:
                continue
            images, place = list[str](), spelled[folder].get(normal(name))
            if place is not None:
                with translate_errors(f"data.path: {place}"):
                    front = place.relative_to(path).as_posix()
                    images = [f"{front}/{file}" for file in folders.names_below(place)]
            if not images:
                alike = spelled_alike(name, (child.name for child in spelled[folder].values()))
                hint = f"; is {alike!r} there the same, spelled otherwise?" if alike else ""
                raise DataError(f"data.path: {place or folder}: found no image of class {name}, wanted at least one"
                                f"{hint}; data.classes can leave the class out")  # fmt: skip
            origins += images
            labels += [label] * len(images)
            splits += [split] * len(images)
    folders.check_names(origins, path)
    nested = [] if layout.inside else _nested(origins, names, labels)
    warnings = [*layout.warnings, *_left_out(path, [*(layout.inside or layout.splits)]), *nested,
                *not_classes.background(names), *(numbered.above(path) if set(splits) == {"all"} else ())]  # fmt: skip
    hint = "" if layout.inside else _meant(next(iter(layout.splits)), names)
    items, numbers = Files(path, origins), np.array(labels, np.int64)
    return Listing(names, items, numbers, splits, origins, path, warnings=warnings, hint=hint)


def _folder(given: str) -> Path:
    path = Path(given).expanduser()
    if path.is_dir():
        return path
    if not path.exists():
        raise DataError(f"data.path: {path}: no such folder")
    if path.suffix.lower() in tables.ENDINGS:
        raise DataError(
            f"data.path: {path}: a table, not a folder; wanted the folder of the pictures there, and data.table: {path}"
        )
    kind = format_of(path, pictures=True)
    raise DataError(f"data.path: {path}: {kind}, wanted a folder" if kind else f"data.path: {path}: not a folder")


def _layout(path: Path, chosen: dict[str, str] | None) -> Layout:
    """The folders of splits; ``path`` itself where its folders are classes."""
    children = folders.class_folders(path)
    if chosen and not any((path / name).is_dir() for name in chosen.values()):
        if inside := not_classes.splits_inside(children, chosen):
            return _inside(path, children, inside, chosen)
        there, missing = some([child.name for child in children]) or "no folders", next(iter(chosen.values()))
        return Layout(problem=f"data.splits: {path}: no split {missing!r}; found {there}")
    if chosen:
        known = [name for name in chosen.values() if (path / name).is_dir()]
        known += [child.name for child in children if child.name not in known]
        role_of, warnings = roles(known, chosen, where=str(path))
        return _checked(path, {path / name: role for name, role in role_of.items()}, warnings)
    if not children:
        return Layout(problem=f"{path}: found no class folders, wanted <class>/<image> or train/<class>/<image>; it "
                              f"holds {folders.content(path)}{_above(path)}")  # fmt: skip
    splits = [child for child in children if role_named(child.name)]
    kinds = {role_named(child.name) for child in splits}
    if "train" in kinds and len(splits) == len(children):
        role_of, warnings = roles([child.name for child in splits], None, where=str(path))
        return _checked(path, {path / name: role for name, role in role_of.items()}, warnings)
    if "train" in kinds and ("test" in kinds or not_classes.holds_folders(path, "train")):
        return Layout(problem=not_classes.beside_train(children, splits))
    if problem := not_classes.named_like_splits(path, children):
        return Layout(problem=problem)
    if inside := not_classes.splits_inside(children):
        return _inside(path, children, inside, None)
    return Layout({path: "all"})


def _inside(path: Path, children: list[Path], names: list[str], chosen: dict[str, str] | None) -> Layout:
    """The layout of splits that are folders in every class folder."""
    role_of, warnings = roles(names, chosen, where=str(path))
    return Layout({path / name: role for name, role in role_of.items()}, warnings, inside=children)


def _no_classes(layout: Layout, classes: Collection[str] | None) -> str:
    """Why the folders to train on are no classes, as a message; "" where they are, or are named in a list."""
    if classes is not None or layout.inside:
        return ""
    train = next((folder for folder, role in layout.splits.items() if role in ("train", "all")), None)
    return "" if train is None else not_classes.why(train, folders.class_folders(train))


def _checked(path: Path, splits: dict[Path, str], warnings: list[str]) -> Layout:
    """The layout of these splits, each of which must have some of the class folders to train on."""
    train = next((folder for folder, role in splits.items() if role in ("train", "all")))
    classes = {normal(child.name) for child in folders.class_folders(train)}
    if not classes:
        return Layout(problem=f"{train}: found no class folders, wanted <class>/<image>; it holds "
                              f"{folders.content(train)}")  # fmt: skip
    problem, flat = "", dict[Path, str]()
    for folder, role in splits.items():
        names = [child.name for child in folders.class_folders(folder)]
        if role in ("test", "validation") and not classes & set(map(normal, names)):
            content = f"found folders {some(names, 3)}" if names else "found files and no folders"
            flat[folder] = role
            problem = problem or (
                f"{folder}: its images are not in folders of their class ({content}), wanted <class>/<image> "
                f"with the class names of {train.name}; sort them into class folders"
            )
    if problem:
        rest = {folder: role for folder, role in splits.items() if folder not in flat}
        left = ", ".join(f"{role}: {folder.relative_to(path).as_posix()}" for folder, role in rest.items())
        return Layout(rest, warnings, f"{problem}, or leave them out: data.splits: {{{left}}}", flat)
    return Layout(splits, warnings)


def _class_names(
    layout: Layout, classes: Collection[str] | None
) -> tuple[list[str], dict[Path, dict[str, Path]]]:  # fmt: skip
    """The names of all class folders, as the training split spells them, and each split's folders by normal name."""
    spelled, names = dict[Path, dict[str, Path]](), dict[str, str]()
    if layout.inside:
        own = folders.by_spelling(layout.inside)
        folders.check_names([child.name for child in own.values()], layout.inside[0].parent)
        spelled = {split: {key: child / split.name for key, child in own.items()} for split in layout.splits}
        return sorted(child.name for child in own.values()), spelled
    for folder in sorted(layout.splits, key=lambda folder: layout.splits[folder] != "train"):
        for link in folders.lost_links(folder):
            if classes is None or normal(link.name) in classes:
                raise DataError(
                    f"data.path: {link}: a link to {link.readlink()}, which is not there; mount it, or remove the link"
                )
        spelled[folder] = folders.by_spelling(folders.class_folders(folder))
        folders.check_names([child.name for child in spelled[folder].values()], folder)
        names = {key: child.name for key, child in spelled[folder].items()} | names
    return sorted(names.values()), spelled


def _empty(spelled: dict[Path, dict[str, Path]], classes: Collection[str] | None) -> str:
    """That some folder of a split holds no pictures, as a message; "" if there is none."""
    return next(filter(None, (not_classes.no_pictures(*split, classes) for split in spelled.items())), "")


def _meant(place: Path, names: list[str]) -> str:
    """The folder that was probably meant instead of ``place``, whose folders are ``names``, as the end of a message."""
    if len(names) != 1 or (meant := folders.deeper(place)) is None:
        return "; wanted a folder for every class, or a table of labels in data.table" if len(names) < 2 else ""
    below = some([child.name for child in folders.class_folders(meant)], 3)
    return f"; its folders {below} are probably meant: data.path: {meant}"


def _above(path: Path) -> str:
    """That the folder above may be meant, or the table that lies there, as the end of a message."""
    above = path.resolve().parent
    if not folders.loose_pictures(path):
        return ""
    if table := next((file for file in sorted(above.iterdir()) if tables.is_candidate(file)), None):
        return f"; if {table.name} has their labels, data.table: {table}"
    beside = [child for child in folders.class_folders(above) if child != path.resolve()]
    if not any(folders.loose_pictures(child) for child in beside[:5]):
        return ""
    return f"; if {path.name} is a class, like {some([child.name for child in beside], 3)}, data.path: {above}"


def _left_out(path: Path, places: list[Path]) -> list[str]:
    """A warning for every folder with pictures beside its class folders."""
    warnings = []
    for folder in dict.fromkeys([path, *places]):
        if loose := folders.loose_pictures(folder):
            warnings.append(
                f"{folder}: {len(loose):,} pictures beside the class folders are left out: {some(loose, 3)}"
            )
    return warnings


def _nested(origins: list[str], names: list[str], labels: list[int]) -> list[str]:
    """A warning where no class has pictures of its own, and folders in it have, which may be the classes."""
    below: dict[int, set[str]] = {}
    for origin, label in zip(origins, labels, strict=True):
        folder, name = origin.rsplit("/", 1)
        if not folders.is_picture(name):
            continue
        if folder.rsplit("/", 1)[-1] == names[label]:
            return []
        below.setdefault(label, set()).add(folder)
    label, found = max(below.items(), key=lambda pair: len(pair[1]), default=(0, set()))
    if len(found) < 2:
        return []
    inner = some(sorted(Path(folder).name for folder in found), 3)
    return [f"class {names[label]} has no pictures of its own, its folders {inner} count as one class; "
            "where they are the classes, data.path is one level too high"]  # fmt: skip
