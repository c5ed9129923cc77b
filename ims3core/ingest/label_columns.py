"""Which column of a table holds the labels, and what its cells say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ims3core.errors import DataError, some
from ims3core.ingest.classes import normal
from ims3core.ingest.split_columns import FOLDS

LABELS = ("label", "labels", "class", "target", "category", "class_name", "label_name")
NUMBERS = ("classid", "class_id", "labelid", "label_id", "categoryid", "category_id", "target_id")  # of classes
ABSENT = {"nan", "n/a", "#n/a", "<na>", "null", "?"}  # what programs write for no label, in any letters
ABSENT_SO = {"NA", "None"}  # likewise, in these letters; ``none`` is a class of some data sets


def labels(
    columns: Mapping[str, list[Any]], taken: set[str | None], chosen: str | None, place: str, first: int
) -> list[str]:
    """The label of every row as text, "" where it has none: a column, or the one column of several that holds a 1.

    Args:
        taken: columns of something else.
        chosen: ``data.label_column``.
        first: what the first row is called in messages.
    """
    if chosen is not None:
        if chosen not in columns:
            raise DataError(f"data.label_column: {place}: no column {chosen!r}; found {some(list(columns))}")
        return _texts(columns[chosen], place, first)
    others = [name for name in columns if name not in taken]
    others = [name for name in others if name.lower() in (*LABELS, *NUMBERS) or not _counts(columns[name])] or others
    others = [name for name in others if name.lower() not in FOLDS] or others
    usual = [name for name in others if name.lower() in LABELS] or [name for name in others if name.lower() in NUMBERS]
    if len(usual or others) == 1:
        return _texts(columns[(usual or others)[0]], place, first)
    if not usual and others and (hot := _one_hot({name: columns[name] for name in others})) is not None:
        return hot
    which = f"{some(usual or others)} can be the label" if others else "only names of pictures"
    raise DataError(f"{place}: {len(usual or others)} columns ({which}), wanted one; data.label_column chooses")


def _counts(cells: list[Any]) -> bool:
    """Whether a column counts the rows, as the index that pandas writes."""
    texts = [str(cell) for cell in cells]
    return len(texts) > 2 and texts in ([str(n) for n in range(len(texts))], [str(n) for n in range(1, len(texts) + 1)])


def _one_hot(columns: Mapping[str, list[Any]]) -> list[str] | None:
    """The name of the column that holds the 1 of each row, where every row holds one 1 and zeros."""
    names, rows = list(columns), list(zip(*columns.values(), strict=True))
    numbers = [[{"0": 0, "1": 1}.get(str(cell).removesuffix(".0"), 2) for cell in row] for row in rows]
    if any(sum(row) != 1 or max(row) != 1 for row in numbers):
        return None
    return [names[row.index(1)] for row in numbers]


def _texts(cells: list[Any], place: str, first: int) -> list[str]:
    """Labels as text; whole numbers as whole, also where a spreadsheet made 3.0 of them; lists of one as that one."""
    cells = [cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in cells]
    for row, cell in enumerate(cells, start=first):
        if isinstance(cell, list | dict):
            several = f"{len(cell)} labels" if isinstance(cell, list) else "an object"
            raise DataError(f"{place}: row {row} has {several} ({some([cell], 1)}), wanted one label a picture")
    texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    whole = [text.removesuffix(".0") for text in texts]
    texts = whole if all(text.lstrip("-").isdigit() or not text for text in whole) else texts
    absent = [row for row, text in enumerate(texts, start=first) if _is_absent(text)]
    if absent:
        raise DataError(f"{place}: row {absent[0]} has the label {texts[absent[0] - first]!r}, which says that there "
                        f"is none; {len(absent):,} rows in all; wanted a class, or an empty cell, which leaves the "
                        "picture out")  # fmt: skip
    return texts


def _is_absent(text: str) -> bool:
    """Whether a label says that there is no label, or is a number that no class has."""
    return text.lower() in ABSENT or text in ABSENT_SO or re.fullmatch(r"-\d+(\.0+)?", text) is not None


def check_single(pictures: Mapping[int, tuple[str, int]], classes: Collection[str] | None, place: str) -> None:
    """Raises a DataError for a label that is a list, such as ``a|b`` where ``a`` and ``b`` are labels too.

    Commas and blanks are also parts of names. They divide a list if it is rarer than each of its parts is alone, or
    if one part stands at the beginning of one list and further on in another.

    Args:
        pictures: any number -> (label, row).
        classes: names, :func:`normal`, that ``data.classes`` gives, which are no lists.
    """
    times = Counter(label for label, _ in pictures.values())
    named = {label for label in times if classes and {normal(label), normal(label).replace(" ", "_")} & set(classes)}
    for mark in "|;, ":
        parts_of = {label: [part.strip() for part in label.split(mark)] for label in times if mark in label}
        lists = _listed(parts_of, times, mark) - named
        for label, row in pictures.values():
            if label in lists:
                raise DataError(f"{place}: row {row} has several labels ({label!r}), wanted one label a picture; a "
                                "list in data.classes says which are names of classes")  # fmt: skip


def _listed(parts_of: Mapping[str, list[str]], times: Mapping[str, int], mark: str) -> set[str]:
    """The labels that are lists divided by ``mark``."""
    if mark in "|;":
        repeated = Counter(part for parts in parts_of.values() for part in set(parts))
        known = times.keys() | {part for part, count in repeated.items() if count > 1}
        return {label for label, parts in parts_of.items() if set(parts) <= known}
    alone = {label for label, parts in parts_of.items() if times[label] < min(times.get(part, 0) for part in parts)}
    if mark == " ":
        return alone
    firsts = {parts[0] for parts in parts_of.values()}
    moved = firsts & {part for parts in parts_of.values() for part in parts[1:]}
    return alone | {label for label, parts in parts_of.items() if moved & set(parts)}
