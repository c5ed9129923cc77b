"""What tables say of splits: in a column, by the folders of their pictures, or by their own names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ims3core.errors import DataError, some
from ims3core.ingest.listing import role_named, roles, roles_in
from ims3core.ingest.picture_names import role_of_folders

SPLITS = ("split", "partition", "usage", "phase")  # columns of splits, whatever they hold
PERHAPS = ("data set", "dataset", "data_set", "subset", "set")  # columns that can also say where a picture is from
FOLDS = ("fold", "folds", "kfold", "k_fold", "cv")
UNKNOWN = ("eval", "evaluation", "holdout", "heldout", "unseen")  # words in names of tables that are no role
MOSTLY = 0.9  # share of roles among the cells of a column of another name


class SplitError(DataError):
    """A table divides the pictures in a way that is not understood; without it, test pictures would be trained on."""


@dataclass(frozen=True)
class SplitColumn:
    """The column of a table that says which split a row belongs to.

    Attributes:
        name: of the column.
        texts: what stands in every row.
        splits: texts in small letters -> the split they stand for: a role or, where ``chosen``, a value of data.splits.
        chosen: whether ``data.splits`` says which splits there are, so that others are left out.
    """

    name: str
    texts: list[str]
    splits: dict[str, str]
    chosen: bool

    def of(self, place: str, number: int, row: int) -> str | None:
        """The split of one row, the ``number``-th, called ``row`` in messages; None: one that data.splits leaves out.

        Raises:
            SplitError: nothing stands there, or a word that is no split.
        """
        text = self.texts[number]
        if (split := self.splits.get(text.lower())) is not None:
            return split
        if not text:
            raise SplitError(f"{place}: row {row} has nothing in the column {self.name!r}, wanted a split in every row")
        if self.chosen:
            return None
        example = f"{{train: train, test: {text if text.isalpha() else repr(text)}}}"
        raise SplitError(f"{place}: row {row} has {text!r} in the column {self.name!r}, wanted train, validation or "
                         f"test; data.splits says what each is, for example {example}")  # fmt: skip


def find(
    columns: Mapping[str, list[Any]], taken: set[str | None], chosen: Mapping[str, str] | None, place: str
) -> SplitColumn | None:
    """The column that says which split a row belongs to, by its name or by what it holds; None without one.

    Args:
        taken: the columns of file names and of labels.
        chosen: ``data.splits``, role -> what stands in the column.

    Raises:
        SplitError: two columns divide the rows otherwise, or two words of a column stand for one role.
    """
    found = []
    for name in columns:
        texts = [_text(cell) for cell in columns[name]] if name not in taken else []
        splits = _meanings(texts, chosen)
        if any(texts) and (_chosen(name, splits, chosen) if chosen else _divides(name, texts, splits)):
            found.append(SplitColumn(name, texts, splits, chosen is not None))
    found = [column for column in found if is_usual(column.name)] or found
    for other in found[1:]:
        if [found[0].splits.get(text.lower()) for text in found[0].texts] != [
            other.splits.get(text.lower()) for text in other.texts
        ]:
            raise SplitError(f"{place}: the columns {found[0].name!r} and {other.name!r} both say the split, and not "
                             "the same; wanted one of them")  # fmt: skip
    if found:
        _check_single(found[0], place)
    return found[0] if found else None


def is_usual(name: str) -> bool:
    """Whether columns of splits have such a name."""
    return name.strip().lower() in (*SPLITS, *PERHAPS)


def _text(cell: Any) -> str:
    return "" if cell is None or cell != cell else str(cell).strip()


def _meanings(texts: Sequence[str], chosen: Mapping[str, str] | None) -> dict[str, str]:
    """The texts that stand for a split, in small letters, with that split."""
    if chosen:
        names = {name.strip().lower(): name for name in chosen.values()}
        return {text: names[text] for text in {text.lower() for text in texts} if text in names}
    found = dict[str, str]()
    for text in set(texts):
        roles_of = {role} if (role := role_named(text)) else roles_in(text)
        if len(roles_of) == 1:
            found[text.lower()] = min(roles_of)
    return found


def _chosen(name: str, splits: Mapping[str, str], chosen: Mapping[str, str]) -> bool:
    """Whether a column holds what ``data.splits`` names: all of it, or some under a usual name."""
    return set(splits.values()) == set(chosen.values()) or (is_usual(name) and bool(splits))


def _divides(name: str, texts: Sequence[str], splits: Mapping[str, str]) -> bool:
    """Whether a column says the split: by its name, or because it holds little else than names of several splits."""
    kinds = {text.lower() for text in texts if text}
    name = name.strip().lower()
    if name in SPLITS:
        return len(kinds) > 1 or kinds <= splits.keys()
    if name in PERHAPS:
        return not kinds.isdisjoint(splits)
    written = [text for text in texts if text]
    known = sum(role_named(text) is not None for text in written)
    return len(set(splits.values())) > 1 and known >= MOSTLY * len(written)


def _check_single(column: SplitColumn, place: str) -> None:
    """Raises a SplitError if two words of a column stand for one role, as PublicTest and PrivateTest do."""
    first: dict[str, str] = {}
    for text in sorted(set(column.texts)):
        split = column.splits.get(text.lower())
        if split and (other := first.setdefault(split, text)).lower() != text.lower():
            train = next((word for word in column.texts if column.splits.get(word.lower()) == "train"), "")
            example = ", ".join([f"train: {train}"] * (bool(train) and split != "train") + [f"{split}: {text}"])
            raise SplitError(f"{place}: {other!r} and {text!r} in the column {column.name!r} are both {split}; "
                             f"data.splits chooses, for example {{{example}}}")  # fmt: skip


def role_of_table(table: Path) -> str:
    """The split that the name of a table says it is for, as in ``trainLabels.csv``; "" without one."""
    return min(roles_in(table.stem), default="")


def divide(
    chosen: Mapping[str, str] | None, origins: Sequence[str], said: Sequence[tuple[str, Path]], where: str
) -> tuple[list[str | None], list[str]]:
    """The role of every picture, None for those that ``data.splits`` leaves out, and warnings.

    A picture's split is what a column says, else its folder, else the name of its table.

    Args:
        said: per picture, what a column says or "", and the table.

    Raises:
        SplitError: some pictures belong to no split, while others do.
    """
    names = [column or _by_place(origin, table, chosen) for origin, (column, table) in zip(origins, said, strict=True)]
    kinds = sorted(set(names))
    if chosen:
        known = [name for name in kinds if name in chosen.values()]
        role_of, warnings = roles(known or kinds, chosen, where=where)
        out = [origin for origin, name in zip(origins, names, strict=True) if name not in role_of]
        if out:
            warnings.append(f"{where}: {len(out):,} pictures are in none of the splits {some(known)}, which "
                            f"data.splits names, and are left out: {some(out, 3)}")  # fmt: skip
        return [role_of.get(name) for name in names], warnings
    tables = {table for _, table in said}
    if "" in names and len(tables) > 1:
        _check_words(said[names.index("")][1], tables, where)
        for table in {table for name, (_, table) in zip(names, said, strict=True) if not name}:
            _check_words(table, tables, where)
    if len(kinds) <= 1:
        return ["all"] * len(names), []
    if "" in kinds:
        number = names.index("")
        raise SplitError(f"{where}: {origins[number]} ({said[number][1].name}) belongs to none of the splits "
                         f"{some(kinds[1:])}; wanted it in a folder of one, in a table that is named like one, or a "
                         "column split; data.splits names those to read alone")  # fmt: skip
    role_of, warnings = roles(kinds, None, where=where)
    return [role_of[name] for name in names], warnings


def _by_place(origin: str, table: Path, chosen: Mapping[str, str] | None) -> str:
    """The split of a picture by its folders or, where they say nothing, by the name of its table; "" without one."""
    if not chosen:
        return role_of_folders(origin) or role_of_table(table)
    folders = [name for name in chosen.values() if f"/{name.strip('/')}/" in f"/{origin}"]
    tables = [name for name in chosen.values() if name in (table.stem, table.name)]
    own = role_of_folders(origin) or role_of_table(table)
    return next(iter([*folders, *tables]), own if own in chosen.values() else "")


def _check_words(table: Path, tables: set[Path], where: str) -> None:
    """Raises a SplitError for a table that is one of several and named like a split, but not like one we know."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", table.stem)}
    joined = re.sub(r"[^a-z]", "", table.stem.lower())
    if word := next((word for word in UNKNOWN if word in words or (len(word) > 6 and word in joined)), None):
        other = next(iter(sorted(tables - {table})))
        reading = f"{{train: {other.stem}, test: {table.stem}}}"
        raise SplitError(f"{where}: {table.name} beside {other.name}: is {word} a split? wanted names with train, "
                         f"validation or test; data.splits: {reading} says it")  # fmt: skip
