"""Which split a parquet file is in by its name, and a row by a column of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ims3core.errors import DataError, some
from ims3core.ingest import split_columns
from ims3core.ingest.folders import can_be_class
from ims3core.ingest.listing import role_named, roles_in, splits_in

ORDER = ("train", "validation", "test")
SHARD = re.compile(r"^(?P<name>.*?)[-_.]?(?P<number>\d+)-of-(?P<count>\d+)")  # train-00000-of-00003-a09b74b3
EVALUATION = re.compile(r"(?i)(?<![a-z])eval(uation)?(?![a-z])")  # what `datasets` takes for test


def parquet_files(root: Path) -> list[Path]:
    """The parquet files below a folder that are not hidden, sorted."""
    return sorted(
        file for file in root.rglob("*.parquet") if all(map(can_be_class, file.relative_to(root).parts))
    )  # fmt: skip


def by_name(root: Path, files: Sequence[Path], chosen: Mapping[str, str] | None, place: str) -> dict[str, list[str]]:
    """The files of every split; all are ``train`` where no name says a split.

    Args:
        chosen: ``data.splits``, role -> the name of a split, a folder or a file without its number and ending.

    Raises:
        DataError: a name says two splits, or only some names say one.
    """
    split_of = {file: _split(file.relative_to(root), set((chosen or {}).values()), place) for file in files}
    if not any(split_of.values()):
        return {"train": list(map(str, files))}
    unknown = [file for file, split in split_of.items() if not split]
    if unknown and not chosen:
        raise DataError(_unknown(root, unknown, {split: file for file, split in split_of.items() if split}, place))
    found: dict[str, list[str]] = {}
    for file, split in split_of.items():
        found.setdefault(split or _bare(file), []).append(str(file))
    return dict(sorted(found.items(), key=lambda pair: (*ORDER, None).index(role_named(pair[0]))))


def _split(file: Path, chosen: Collection[str], place: str) -> str:
    """The split that a path says; "" where it says none."""
    parts = [*file.parts[:-1], _bare(file)]
    found = set().union(*map(roles_in, parts)) | {"test" for part in parts if EVALUATION.search(part)}
    for name in [*reversed(parts), file.stem, *sorted(found)]:
        if name in chosen:
            return name
    if len(found) > 1:
        raise DataError(f"{place}: {file}: named like {' and '.join(sorted(found))}, wanted one split in a name")
    role = min(found, default="")
    said = [word for part in reversed(parts) for word in splits_in(part)]
    return said[0] if said and role != "train" else role  # what stands in for the test split is called by its name


def _bare(file: Path) -> str:
    """The name of a file without its ending and the number of a part."""
    match = SHARD.match(file.stem)
    return match["name"] if match else file.stem


def _unknown(root: Path, unknown: Sequence[Path], known: Mapping[str, Path], place: str) -> str:
    """That files say no split while others do, with what was probably meant."""
    meant = {role: split for role in ORDER for split in known if role_named(split) == role}
    added = next((role for role in ("train", "test") if role not in meant), None)
    if added:
        meant[added] = _bare(unknown[0])
    names = some([file.relative_to(root).as_posix() for file in unknown], 3)
    split, file = next(iter(known.items()))
    reading = ", ".join(f"{role}: {name}" for role, name in meant.items())
    what = f"reads {_bare(unknown[0])} as {added}" if added else f"leaves {_bare(unknown[0])} out"
    return (f"{place}: {names}: in no split by the name, beside {file.relative_to(root).as_posix()} ({split}); wanted "
            f"a split in every name, or in none; data.splits: {{{reading}}} {what}")  # fmt: skip


def check_complete(files: Iterable[Path], place: str) -> None:
    """Raises a DataError where a file says of how many it is one, and others of them are not there."""
    found: dict[tuple[Path, str, int], dict[int, re.Match[str]]] = {}
    for file in files:
        if match := SHARD.match(file.stem):
            found.setdefault((file.parent, match["name"], int(match["count"])), {})[int(match["number"])] = match
    for (_, _, count), numbers in found.items():
        first = int(0 not in numbers and count in numbers)
        if missing := [number for number in range(first, count + first) if number not in numbers]:
            one = next(iter(numbers.values()))
            front, width = one.string[: one.start("number")], len(one["number"])
            lost = [f"{front}{number:0{width}d}-of-{one['count']}" for number in missing]
            raise DataError(f"{place}: {some(lost, 3)}: not there, beside {len(numbers)} of {count} files such as "
                            f"{one.string}; wanted all {count}")  # fmt: skip


def by_column(
    loaded: Mapping[str, Sequence[Any]], chosen: Mapping[str, str] | None, place: str
) -> tuple[str, list[str]] | None:  # fmt: skip
    """The column that divides the one split that there is, and what it says of every row; None without one.

    Raises:
        DataError: a row says nothing, or something else than the split that its file is in.
    """
    parts = [part for parts in loaded.values() for part in parts]
    usual = [
        name for name in (parts[0].features if parts else ())
        if split_columns.is_usual(name) and all(name in part.features for part in parts)
    ]  # fmt: skip
    said = {
        name: {split: [text for part in loaded[split] for text in _texts(part, name)] for split in loaded}
        for name in usual
    }  # fmt: skip
    if len(loaded) > 1:
        for name in usual:
            _check_agreement(said[name], name, place)
        return None
    whole = {name: next(iter(texts.values())) for name, texts in said.items()}
    if (column := split_columns.find(whole, set(), chosen, place)) is None:
        return None
    if "" in column.texts:
        raise DataError(f"{place}, column {column.name}: row {column.texts.index('')} says no split, wanted one")
    return column.name, [column.splits.get(text.lower(), text) for text in column.texts]


def _check_agreement(said: Mapping[str, Sequence[str]], column: str, place: str) -> None:
    """Raises a DataError for a row that says to be in another split than its file is."""
    for split, texts in said.items():
        for row, text in enumerate(texts):
            if (role := role_named(text)) and (own := role_named(split)) and role != own:
                raise DataError(f"{place}: row {row} is in split {split}, and says {text!r} in column {column}; wanted "
                                "the same in both")  # fmt: skip


def _texts(part: Any, column: str) -> list[str]:
    """The cells of a column as text, "" where there is none."""
    names = getattr(part.features[column], "names", None)
    cells = part.data.column(column).to_pylist()
    return ["" if cell is None else str(names[cell] if names else cell).strip() for cell in cells]
