"""Folders that are no classes: splits, parts of an archive, folds, masks beside their pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ims3core.errors import some
from ims3core.ingest import folders
from ims3core.ingest.listing import role_named, roles_in

# Words that stand before the numbers of parts and folds; classes are numbered too (c0, class_1, s40, Sample001).
PARTS = {
    "part", "parts", "fold", "folds", "batch", "shard", "chunk", "split", "subset", "image", "images", "img", "imgs",
    "photo", "photos", "picture", "pictures", "pics", "data", "dataset", "takeout", "download", "drive", "archive",
    "zip",
}  # fmt: skip
PICTURES = {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "jpg", "png", "rgb"}
BESIDE = {
    "masks", "mask", "annotations", "annotation", "labels", "label", "trimaps", "trimap", "segmentation",
    "segmentations", "segmentationclass", "groundtruth", "gt", "boxes", "bboxes", "xmls", "xml", "json", "txt",
}  # fmt: skip
NAMED = "where they are the classes, data.classes names them"


def beside_train(children: Sequence[Path], splits: Sequence[Path]) -> str:
    """That folders lie beside those of splits, as a message with the splits that were probably meant."""
    role_of = {role_named(child.name): child.name for child in splits}
    extra = [child for child in children if child not in splits]
    ours = "train and test folders" if "test" in role_of else "a train folder"
    alone = ", ".join(f"{role}: {name}" for role, name in role_of.items())
    train = next(child for child in splits if role_named(child.name) == "train")
    classes = {child.name for child in folders.class_folders(train)}
    meant = dict(role_of)
    for child in extra:
        if classes & {inner.name for inner in folders.class_folders(child)}:
            named = sorted(roles_in(child.name)) or ["test", "validation"]
            if role := next((role for role in named if role not in meant), None):
                meant[role] = child.name
    if meant == role_of:
        return (f"{extra[0]}: found beside {ours}, wanted nothing else there; data.splits: {{{alone}}} reads these "
                "alone")  # fmt: skip
    all_of_them = ", ".join(f"{role}: {name}" for role, name in meant.items())
    return (f"{extra[0]}: found beside {ours}, which it shares class folders with; wanted nothing else there; "
            f"data.splits: {{{all_of_them}}} reads it as a split, {{{alone}}} reads these alone")  # fmt: skip


def holds_folders(path: Path, role: str) -> bool:
    """Whether the folders of this role hold folders and no pictures, as a split does and a class does not."""
    ours = [child for child in folders.class_folders(path) if role in roles_in(child.name)]
    return all(folders.class_folders(child) and not folders.loose_pictures(child) for child in ours)


def named_like_splits(path: Path, children: list[Path]) -> str:
    """Why these folders are splits under names of their own and no classes, as a message; "" where they are not."""
    role_of = {child: min(found) for child in children if (found := roles_in(child.name))}
    several = len(set(role_of.values())) > 1 and "train" in role_of.values() and holds_folders(path, "train")
    if len(role_of) < len(children) and not several:
        return ""
    meant: dict[str, str] = {}
    for child, role in role_of.items():
        if (folder := folders.deeper(child)) is not None:
            meant.setdefault(role, folder.relative_to(path).as_posix())
    names = some([child.name for child in children], 4)
    if "train" not in meant:
        return (f"{path}: its folders ({names}) are named like splits, not like classes, and hold no class folders to "
                "train on; wanted train/<class>/<image>, or a table of labels in data.table")  # fmt: skip
    reading = ", ".join(f"{role}: {name}" for role, name in sorted(meant.items(), reverse=True))
    return (f"{path}: its folders ({names}) are named like splits, not like classes; "
            f"data.splits: {{{reading}}} reads the class folders in them")  # fmt: skip


def splits_inside(children: Sequence[Path], chosen: Mapping[str, str] | None = None) -> list[str]:
    """The names of the splits, where every class folder holds the same ones of pictures; [] where not.

    Args:
        chosen: ``data.splits``, role -> name; None: every folder in a class folder is named like a split.
    """
    inner = folders.only_folders(children[0]) if len(children) > 1 else []
    if chosen is None:
        roles = list(map(role_named, inner))
        wanted = inner if "train" in roles and None not in roles and len(inner) > 1 else []
    else:
        wanted = list(chosen.values()) if set(chosen.values()) <= set(inner) else []
    for child in children if wanted else ():
        found = folders.only_folders(child)
        same = found == inner if chosen is None else set(wanted) <= set(found)
        if not same or not all(folders.loose_pictures(child / name) for name in wanted):
            return []
    return wanted


def no_pictures(place: Path, children: Mapping[str, Path], classes: Collection[str] | None) -> str:
    """That a folder in ``place`` holds no pictures, so it is no class, as a message; "" if there is none.

    Args:
        children: the folders by their names, :func:`normal`.
        classes: names, :func:`normal`, that ``data.classes`` gives.
    """
    empty = [child for name, child in children.items()
             if (classes is None or name in classes) and folders.holds_only_texts(child)]  # fmt: skip
    if not empty:
        return ""
    rest = [child for child in children.values() if child not in empty]
    meant = folders.deeper(rest[0]) if len(rest) == 1 and classes is None else None
    way = "move it away, or name the classes in data.classes"
    if meant is not None:
        way = f"data.path: {meant} reads the folders in it"
    return (f"{empty[0]}: found no pictures ({folders.content(empty[0])}; texts, such as boxes, are no class), "
            f"wanted only class folders in {place}; {way}")  # fmt: skip


def background(names: Sequence[str]) -> list[str]:
    """A warning about a class of pictures that show none of the others, as Caltech-101 and -256 have one."""
    found = [name for name in names if re.fullmatch(r"(\d+\.)?(background_google|clutter)", name.lower())]
    return [f"class {name} holds pictures of none of the other classes; a list in data.classes leaves it out"
            for name in found]  # fmt: skip


def why(path: Path, children: Sequence[Path]) -> str:
    """Why the folders in ``path`` are no classes, as a message with what was probably meant; "" where they may be."""
    return _beside_pictures(path, children) or _same_inside(path, children) or _numbered(path, children)


def _beside_pictures(path: Path, children: Sequence[Path]) -> str:
    """That one folder has the pictures, and another what belongs to them: masks, boxes, annotations."""
    beside = [child for child in children if _word(child.name) in BESIDE]
    others = [child for child in children if child not in beside]
    alone = others if len(others) == 1 and folders.only_folders(others[0]) else []
    own = next((child for child in others if _word(child.name) in PICTURES), next(iter(alone), None))
    meant = None if own is None else folders.deeper(own)
    if own is None or not beside or (own in alone and _word(own.name) not in PICTURES and meant is None):
        return ""
    names = some([child.name for child in beside], 3)
    texts = all(map(folders.holds_only_texts, beside))
    what = "texts, such as boxes" if texts else "masks or annotations"
    found = f"{path}: its folders {own.name} and {names} look like pictures and {what} of them, not like classes"
    if meant is not None and not any(role_named(child.name) for child in folders.class_folders(meant)):
        return f"{found}; data.path: {meant} reads the folders in it; {NAMED}"
    return f"{found}; wanted <class>/<image>, or a table of labels in data.table; {NAMED}"


def _same_inside(path: Path, children: Sequence[Path]) -> str:
    """That most folders hold no pictures, but several folders of the same names, which are then the classes."""
    inner_of = {child: folders.only_folders(child) for child in children}
    times = Counter(name for inner in inner_of.values() for name in inner)
    shared = {child: [name for name in inner if times[name] > 1] for child, inner in inner_of.items()}
    shared = {child: names for child, names in shared.items() if len(names) > 1}
    if 2 * len(shared) <= len(children):
        return ""
    first, names = next(iter(shared.items()))
    found = (f"{path}: its folders {some([child.name for child in children], 3)} hold folders of the same names "
             f"({some(names, 3)})")  # fmt: skip
    words = set(map(_word, names))
    if words & PICTURES and words & BESIDE:
        return (f"{found}: pictures, and what belongs to them; wanted only pictures in a class; move the others away, "
                "or data.classes names the classes, of which all files then count")  # fmt: skip
    if any(map(role_named, names)) and not any(folders.only_folders(first / name) for name in names):
        return f"{found}, which are splits inside of classes; wanted the same ones in every class; {NAMED}"
    return (f"{found}, which are probably the classes; data.path: {first} reads those of {first.name} alone; "
            f"{_merge(list(shared))}; {NAMED}")  # fmt: skip


def _merge(children: Sequence[Path]) -> str:
    """What to do with folders that hold the same classes."""
    first, second = children[0].name, children[1].name
    return (
        f"data.splits: {{train: {first}, test: {second}}} where they are splits; else wanted one folder of each class"
    )


def _numbered(path: Path, children: Sequence[Path]) -> str:
    """That the folders are called like parts of one archive, or like folds."""
    stems = {re.sub(r"\d+|(?<=[_ -])[a-h]$", "#", child.name.lower()) for child in children}
    if len(children) < 2 or len(stems) > 1 or "#" not in (stem := stems.pop()):
        return ""
    words = set(re.findall(r"[a-z]+", stem))
    if not words & PARTS:
        return ""
    names = some([child.name for child in children], 3)
    found = f"{path}: its folders {names} are numbered like parts or folds of one set, not like classes"
    if any(map(folders.only_folders, children)):
        return f"{found}; {_merge(children)}; {NAMED}"
    return f"{found}; wanted a table of labels in data.table; {NAMED}"


def _word(name: str) -> str:
    """A name without capitals, numbers and marks."""
    return re.sub(r"[^a-z]", "", name.lower())
