"""Train, validation and test: stratified, and no content on two sides."""

from __future__ import annotations

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
) -> dict[str, np.ndarray]:
    """Row numbers of every split; rows with equal pixels move together when we split.

    A split that the source brings stays as it is: validation is then a share of its training images,
    and only a source without a test split is divided in three.

    Args:
        brought: per row, the split its source puts it in, or ``all``.
        validation_fraction: share, in (0, 1), of all images, or of the training images if a test split is brought.
        test_fraction: share of all images, in (0, 1), where the source brings no test split.

    Returns:
        Sorted int64 row numbers of ``train``, ``validation`` and ``test``.
    """
    origin = np.array(brought)
    members = {name: np.flatnonzero(origin == name) for name in SPLITS}
    if len(whole := np.flatnonzero(origin == "all")):
        rest, members["test"] = _divided(whole, labels, digests, names, test_fraction, seed, least=3)
        share = validation_fraction / (1 - test_fraction)
        members["train"], members["validation"] = _divided(rest, labels, digests, names, share, seed, least=2)
    elif not len(members["validation"]):
        members["train"], members["validation"] = _divided(
            members["train"], labels, digests, names, validation_fraction, seed, least=2
        )
    return members


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


def _divided(
    rows: np.ndarray, labels: np.ndarray, digests: list[str], names: list[str], share: float, seed: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two stratified parts of ``rows``, the second with ``share`` of the distinct images.

    Raises:
        DataError: a class has fewer than ``least`` distinct images.
    """
    from sklearn.model_selection import train_test_split

    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(digests[row], row)
    unique = np.array(list(first.values()))
    counts = np.bincount(labels[unique], minlength=len(names))
    if counts.min() < least:
        raise DataError(
            f"data: class {names[int(counts.argmin())]} has {counts.min()} distinct images, "
            f"wanted at least {least} to fill every split"
        )
    try:
        _, second = train_test_split(unique, test_size=share, stratify=labels[unique], random_state=seed % 2**32)
    except ValueError as error:
        raise DataError(
            f"data.validation_fraction, data.test_fraction: cannot split {len(unique)} images: {error}"
        ) from error
    second_digests = {digests[row] for row in second.tolist()}
    is_second = np.fromiter((digests[row] in second_digests for row in rows.tolist()), bool, len(rows))
    return rows[~is_second], rows[is_second]
