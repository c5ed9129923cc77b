"""Class lists: the benchmarks of the field by name, or a table that the user wrote."""

from __future__ import annotations

import unicodedata
from collections import Counter
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
    spellings = {normal(name): name for name in names}
    rows = [(spellings.get(normal(name), name), human, label) for name, human, label in _chosen_rows(names, chosen)]
    known = set(names)
    if missing := [name for name, _, _ in rows if name not in known]:
        available = f"; there are {some(sorted(names))}" if names else ""
        raise DataError(
            f"data.classes: {len(missing)} of {len(rows)} classes have no folder: {some(missing)}{available}{hint}"
        )
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
    return None if chosen is None else {normal(name) for name, _, _ in _chosen_rows([], chosen)}


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
