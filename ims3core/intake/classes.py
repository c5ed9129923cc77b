"""Class lists: the benchmarks of the field by name, or a table of the user's own."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import yaml

from ims3core.data import ClassRow
from ims3core.shell.errors import DataError

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
    """WordNet ids of the field's benchmarks, in their published order, which is the order of ``class_index``."""
    lists = {name: tuple(text.split()) for name, text in yaml.safe_load(LISTS.read_text(encoding="utf-8")).items()}
    return lists | {"imageidc": lists["imagenet100"][:10]}


def class_table(found: list[str], wanted: str | None, *, trained: bool) -> list[ClassRow]:
    """The classes to use, in order.

    Args:
        found: class names of the data source, in its order.
        wanted: None for all of them, the name of a benchmark, or the path of a CSV file with the columns
            ``folder`` and, if need be, ``human_name`` and ``generator_label``.
        trained: the generator is trained on these classes, so its labels are our class indices. Otherwise
            labels come from the CSV, or from ImageNet where the names are its WordNet ids.

    Raises:
        DataError: naming a wanted class that the source lacks, or a class without a generator label.
    """
    rows = _wanted(found, wanted)
    if missing := [name for name, _, _ in rows if name not in set(found)]:
        raise DataError(
            f"data.classes: {len(missing)} of {len(rows)} classes have no folder: {', '.join(missing[:10])}"
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
    return table


def listed(wanted: str | None) -> set[str] | None:
    """The class names that ``wanted``, as in :func:`class_table`, asks for; None: all there are."""
    return None if wanted is None else {name for name, _, _ in _wanted([], wanted)}


def _wanted(found: list[str], wanted: str | None) -> list[tuple[str, str, int | None]]:
    """(folder, human name, generator label) of every class asked for; empty and None where unknown."""
    if wanted is None:
        return [(name, "", None) for name in found]
    if wanted == "imagenet1k":
        return [(name, "", None) for name in imagenet()]
    if wanted in benchmark_lists():
        return [(name, "", None) for name in benchmark_lists()[wanted]]
    if not wanted.endswith(".csv"):
        known = ", ".join([*benchmark_lists(), "imagenet1k"])
        raise DataError(f"data.classes: {wanted!r} is unknown; known: {known}, or a path ending in .csv")
    return _read_table(Path(wanted))


def _read_table(path: Path) -> list[tuple[str, str, int | None]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            columns = table.fieldnames or []
            if "folder" not in columns or not set(columns) <= set(COLUMNS):
                raise DataError(
                    f"{path}: found columns {', '.join(columns)}; wanted folder, "
                    f"and of {', '.join(COLUMNS[1:])} what is known"
                )
            rows = [(row["folder"], row.get("human_name") or "", row.get("generator_label") or None) for row in table]
    except FileNotFoundError as error:
        raise DataError(f"data.classes: {path}: no such file") from error
    for name, _, label in rows:
        if label is not None and not label.isdecimal():
            raise DataError(f"{path}: class {name} has generator_label {label!r}, wanted a whole number")
    if len({name for name, _, _ in rows}) != len(rows) or not rows:
        raise DataError(f"{path}: found {len(rows)} rows, wanted at least one and every folder once")
    return [(name, human, None if label is None else int(label)) for name, human, label in rows]
