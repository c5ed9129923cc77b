"""Train, validation and test: stratified, and no content on two sides."""

from __future__ import annotations

import bisect
import math

import numpy as np

from ims3core.data import SPLITS
from ims3core.errors import DataError


def assign(
    labels: np.ndarray,
    digests: list[str],
    names: list[str],
    *,
    brought: list[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    ipc: int = 1,
) -> dict[str, np.ndarray]:
    """Row numbers of every split; rows with equal pixels move together when we split.

    A split that the source brings stays as it is: validation is then a share of its training images,
    and only a source without a test split is divided in three.

    Args:
        brought: per row, the split its source puts it in, or ``all``.
        validation_fraction: share, in (0, 1), of all images, or of the training images if a test split is brought.
        test_fraction: share of all images, in (0, 1), where the source brings no test split.
        ipc: images of every class that the training split must have.

    Returns:
        Sorted int64 row numbers of ``train``, ``validation`` and ``test``.

    Raises:
        DataError: a class is too small to fill every split; the number of images that suffices is named.
    """
    origin = np.array(brought)
    members = {name: np.flatnonzero(origin == name) for name in SPLITS}
    wanted, whole = ipc, np.flatnonzero(origin == "all")
    drawn = len(whole) > 0 or not len(members["validation"])
    if len(whole):
        share = validation_fraction / (1 - test_fraction)
        wanted = enough(ipc, share, test_fraction)
        _check_distinct(whole, labels, digests, names, 3, f"wanted at least {wanted} to fill every split")
        rest, members["test"] = _divided(whole, labels, digests, test_fraction, seed, wanted)
        members["train"], members["validation"] = _divided(rest, labels, digests, share, seed, wanted, beside=whole)
    elif drawn:
        wanted, train = enough(ipc, validation_fraction), members["train"]
        _check_distinct(train, labels, digests, names, 2, f"wanted at least {wanted} to train on and validate with")
        members["train"], members["validation"] = _divided(train, labels, digests, validation_fraction, seed, wanted)
    for split, rows in members.items():
        counts = np.bincount(labels[rows], minlength=len(names))
        name, smallest = names[int(counts.argmin())], int(counts.min())
        if smallest == 0 and (origin == split).any() and (split, drawn) != ("train", True):
            raise DataError(f"data: class {name} has no {split} image, wanted at least one")
        if smallest == 0:
            raise DataError(f"data: class {name} has no {split} image, wanted at least {wanted} images of it to divide")
        if split == "train" and ipc > smallest:
            raise DataError(
                f"eval.ipc: {ipc} images per class are asked for, class {name} has {smallest} to train on; wanted at "
                f"least {wanted} images of it, or a smaller eval.ipc"
            )
    return members


def enough(ipc: int, validation_fraction: float, test_fraction: float = 0) -> int:
    """How many distinct images of a class suffice to fill every split, whatever the other classes have.

    A part with a share s of n images gets at least floor(s n) of them, and leaves n - ceil(s n) - 1 or more.

    Args:
        validation_fraction: share of what the test split leaves.
        test_fraction: 0 where the source brings a test split.
    """

    def suffices(count: int) -> bool:
        for share in (test_fraction, validation_fraction):
            if share and math.floor(count * share + 1e-9) < 1:
                return False
            count -= math.ceil(count * share - 1e-9) + 1 if share else 0
        return count >= ipc

    return 1 + bisect.bisect_left(range(1, 10**9), True, key=suffices)


def leaks(digests: list[str], members: dict[str, np.ndarray]) -> int:
    """How many test images have the same pixels as a training or validation image."""
    trained_on = {digests[row] for name in ("train", "validation") for row in members[name]}
    return sum(digests[row] in trained_on for row in members["test"])


def contradictions(digests: list[str], labels: np.ndarray, rows: np.ndarray) -> list[tuple[int, int]]:
    """Pictures that have two labels: for each a row of one class and a row, with the same pixels, of another."""
    first: dict[str, int] = {}
    pairs: dict[str, tuple[int, int]] = {}
    for row in rows.tolist():
        before = first.setdefault(digests[row], row)
        if labels[before] != labels[row]:
            pairs.setdefault(digests[row], (before, row))
    return list(pairs.values())


def _distinct(rows: np.ndarray, digests: list[str]) -> np.ndarray:
    """The first row of every distinct image."""
    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(digests[row], row)
    return np.array(list(first.values()))


def _check_distinct(
    rows: np.ndarray, labels: np.ndarray, digests: list[str], names: list[str], least: int, wanted: str
) -> None:  # fmt: skip
    """Raises a DataError for a class with fewer than ``least`` distinct images among ``rows``."""
    counts = np.bincount(labels[_distinct(rows, digests)], minlength=len(names))
    label = int(counts.argmin())
    if counts[label] >= least:
        return
    own = {digests[row] for row in rows[labels[rows] == label].tolist()}
    shared = {row: digests[row] for row in rows[labels[rows] != label].tolist() if digests[row] in own}
    if not shared:
        raise DataError(f"data: class {names[label]} has {len(own)} distinct images, {wanted}")
    other = names[int(np.bincount(labels[list(shared)]).argmax())]
    raise DataError(
        f"data: class {names[label]} has {len(own)} distinct images, {len(set(shared.values()))} of them also in class "
        f"{other} (a copy of its folder, or a link to it?), {wanted} and in no other class"
    )


def _divided(
    rows: np.ndarray, labels: np.ndarray, digests: list[str], share: float, seed: int, wanted: int,
    beside: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Two stratified parts of ``rows``, the second with ``share`` of the distinct images.

    Args:
        beside: all images that there are, which a message counts, where some were put aside before.

    Raises:
        DataError: a part would have less than one image a class; ``wanted`` images of each suffice.
    """
    from sklearn.model_selection import train_test_split

    unique = _distinct(rows, digests)
    try:
        _, second = train_test_split(unique, test_size=share, stratify=labels[unique], random_state=seed % 2**32)
    except ValueError as error:
        count = len(_distinct(rows if beside is None else beside, digests))
        raise DataError(
            f"data.validation_fraction, data.test_fraction: cannot split {count} images of "
            f"{len(np.unique(labels[unique]))} classes, wanted larger fractions, or at least {wanted} images a class"
        ) from error
    second_digests = {digests[row] for row in second.tolist()}
    is_second = np.fromiter((digests[row] in second_digests for row in rows.tolist()), bool, len(rows))
    return rows[~is_second], rows[is_second]
