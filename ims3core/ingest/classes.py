"""Class lists: the benchmarks of the field by name, or a table that the user wrote."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import yaml

from ims3core.data import ClassRow
from ims3core.data.spreadsheet import read_table
from ims3core.errors import DataError, some

LISTS = Path(__file__).parent / "class_lists.yaml"
COLUMNS = ("folder", "human_name", "generator_label")


@cache
def imagenet() -> dict[str, tuple[int, str]]:
    """The 1000 WordNet ids of ImageNet-1K with their index, which is DiT's label, and their names."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_label_name(i): (i, info.index_to_description(i)) for i in range(info.num_classes())}


@cache
def benchmark_lists() -> dict[str, tuple[str, ...]]:
    """Class names of the field's benchmarks, in their published order, which is the order of ``class_index``."""
    lists = {name: tuple(text.split()) for name, text in yaml.safe_load(LISTS.read_text(encoding="utf-8")).items()}
    return lists | {"imageidc": lists["imagenet100"][:10]}


def class_table(names: list[str], chosen: str | None, *, trained: bool, hint: str = "") -> list[ClassRow]:
    """The classes to use, in order.

    Args:
        names: class names of the data source, in its order.
        chosen: None for all of them, the name of a benchmark, or the path of a CSV file with the columns
            ``folder`` and, if need be, ``human_name`` and ``generator_label``.
        trained: the generator is trained on these classes, so its labels are our class indices. Otherwise
            labels come from the CSV, or from ImageNet where the names are its WordNet ids.
        hint: what was probably meant where classes are missing (``Listing.hint``).

    Raises:
        DataError: naming a class that the source lacks, or a class without a generator label.
    """
    spellings = {_folder(normal(name)): name for name in names} | {normal(name): name for name in names}
    rows = [
        (spellings.get(normal(name)) or spellings.get(_folder(normal(name)), name), human, label)
        for name, human, label in _chosen_rows(names, chosen)
    ]
    _check_known([name for name, _, _ in rows], names, hint)
    table = []
    for index, (name, human, label) in enumerate(rows):
        if name.startswith("n") and name in imagenet():
            number, described = imagenet()[name]
            human, label = human or described, number if label is None else label
        if trained:
            label = index
        if label is None:
            raise DataError(
                f"data.classes: class {name} has no generator_label; wanted a CSV file with the columns "
                f"{', '.join(COLUMNS)}, or folders named by ImageNet's WordNet ids"
            )
        table.append(ClassRow(index, name, label, human or name))
    _check_distinct(table)
    return table


def _check_known(wanted: list[str], names: list[str], hint: str) -> None:
    """Raises a DataError if classes are ``wanted`` that are not among the ``names`` of the source."""
    known = set(names)
    missing = [name for name in wanted if name not in known]
    if not missing:
        return
    available = f"; there are {some(sorted(names))}" if names else ""
    alike = spelled_alike(missing[0], names)
    hint = f"; is {missing[0]!r} the class {alike!r}, spelled otherwise?" if alike else hint
    if is_wnid(missing[0]) and not any(map(is_wnid, names)):
        hint = f"; the list is of WordNet ids, and a CSV file with the columns {', '.join(COLUMNS)} maps these classes"
    raise DataError(
        f"data.classes: {len(missing)} of {len(wanted)} classes have no folder: {some(missing)}{available}{hint}"
    )


def _check_distinct(table: list[ClassRow]) -> None:
    """Raises a DataError if two classes have one generator label: to the generator they would be one class."""
    owner: dict[int, str] = {}
    for row in table:
        if row.generator_label in owner:
            raise DataError(
                f"data.classes: {owner[row.generator_label]} and {row.name} both have generator_label "
                f"{row.generator_label}; to the generator they would be one class"
            )
        owner[row.generator_label] = row.name


def listed(chosen: str | None) -> set[str] | None:
    """The names, :func:`normal`, of the classes that ``chosen`` stands for in :func:`class_table`; None for all."""
    if chosen is None:
        return None
    names = [name for name, _, _ in _chosen_rows([], chosen)]
    words = [word for name in names if is_wnid(name) and name in imagenet() for word in imagenet()[name][1].split(", ")]
    return {normal(name) for name in [*names, *map(_folder, words), *words]}


def with_wordnet_ids(names: list[str], chosen: str | None) -> list[str]:
    """``names`` with WordNet ids for those that are ImageNet's words, as the hub's data sets call its classes.

    A table of 1,000 names in ImageNet's order is ImageNet's (its words are not unique: 134 and 517 are cranes). Else
    a name is taken for the class of the list ``chosen`` that it is a word of, and of no other class of ImageNet.
    """
    wanted = [] if chosen is None else [name for name, _, _ in _chosen_rows([], chosen)]
    if any(map(is_wnid, names)) or not (all(map(is_wnid, wanted)) if wanted else len(names) == 1000):
        return names
    words = [[_plain(word) for word in text.split(",")] for _, text in imagenet().values()]
    wnids = list(imagenet())
    if len(names) == 1000:
        same = [_plain(name.split(",")[0]) in own for name, own in zip(names, words, strict=True)]
        if sum(same) > len(names) / 2:
            return wnids
    owners = Counter(word for own in words for word in set(own))
    wnid_of = {word: wnid for wnid, own in zip(wnids, words, strict=True) for word in own if owners[word] == 1}
    ids = [wnid_of.get(_plain(name.split(",")[0]), name) for name in names]
    return [wnid if wnid in wanted and ids.count(wnid) == 1 else name for wnid, name in zip(ids, names, strict=True)]


def _plain(word: str) -> str:
    """A word of ImageNet without what tells doubles apart (``crane2``, ``crane (517)``), capitals and underscores."""
    return re.sub(r" ?\(?\d+\)?$", "", word.replace("_", " ").strip()).lower()


def is_wnid(name: str) -> bool:
    """Whether a name has the form of a WordNet id."""
    return re.fullmatch(r"n\d{8}", name) is not None


def spelled_alike(name: str, names: Iterable[str]) -> str | None:
    """One of ``names`` that differs from ``name`` in capitals, blanks, underscores, leading zeros or accents only."""
    return next((other for other in names if other != name and _loose(other) == _loose(name)), None)


def _loose(name: str) -> str:
    text = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name)).casefold()
    return text.lstrip("0") or text


def _chosen_rows(names: list[str], chosen: str | None) -> list[tuple[str, str, int | None]]:
    """(folder, human name, generator label) of every class to use; empty and None where unknown."""
    if chosen is None:
        return [(name, "", None) for name in names]
    if chosen == "imagenet1k":
        return [(name, "", None) for name in imagenet()]
    if chosen in benchmark_lists():
        return [(name, "", None) for name in benchmark_lists()[chosen]]
    if not chosen.lower().endswith(".csv"):
        lists = ", ".join([*benchmark_lists(), "imagenet1k"])
        raise DataError(f"data.classes: {chosen!r} is unknown; known: {lists}, or a path ending in .csv")
    return _read_table(Path(chosen).expanduser())


def _read_table(path: Path) -> list[tuple[str, str, int | None]]:
    try:
        table = read_table(path, COLUMNS, needed="folder")
    except DataError as error:
        raise DataError(f"data.classes: {error}") from error
    rows = [(row["folder"], row["human_name"], _label(path, row)) for row in table]
    names = [normal(name) for name, _, _ in rows]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"data.classes: {path}: folder {name!r} stands there {times} times")
    return rows


def _label(path: Path, row: dict[str, str]) -> int | None:
    """The generator label of a row: a whole number, also as a spreadsheet writes it (``304.0``)."""
    text = row["generator_label"]
    whole = text.removesuffix(".0")
    if text and not (whole.isascii() and whole.isdigit()):
        raise DataError(
            f"data.classes: {path}: class {row['folder']} has generator_label {text!r}, wanted a whole number"
        )
    return int(whole) if text else None


def normal(name: str) -> str:
    """A name with its accents composed: file systems and editors spell the same letters differently."""
    return unicodedata.normalize("NFC", name)


def _folder(name: str) -> str:
    """A name as a folder has it, which lists may write with blanks."""
    return name.replace(" ", "_")
