"""Herding, k-center and random subsets against slow loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.axes.selections.herding import herding
from ims3core.axes.selections.k_center import k_center
from ims3core.axes.selections.random import random_subset
from ims3core.base.seeds import generator

sizes = {"count": st.integers(1, 25), "share": st.floats(0, 1), "seed": st.integers(0, 2**16)}


def random_features(count: int, seed: int, dim: int = 5) -> Tensor:
    """(count, dim) unit vectors around a common direction."""
    return normalize(1 + torch.randn(count, dim, generator=generator(seed, "test-coreset")), dim=-1)


def slow_herding(features: Tensor, ipc: int) -> list[int]:
    """Herding with its target formed anew in every step."""
    points = features.double()
    mean, chosen = points.mean(0), []
    for k in range(ipc):
        target = (k + 1) * mean - sum((points[n] for n in chosen), torch.zeros_like(mean))
        free = [n for n in range(len(points)) if n not in chosen]
        chosen.append(min(free, key=lambda n: (points[n] - target).norm().item()))
    return chosen


def slow_k_center(features: Tensor, ipc: int) -> list[int]:
    """Farthest-first with every distance formed anew in every step."""
    points = features.double()
    chosen = [min(range(len(points)), key=lambda n: (points[n] - points.mean(0)).norm().item())]
    while len(chosen) < ipc:
        free = [n for n in range(len(points)) if n not in chosen]
        chosen.append(max(free, key=lambda n: min((points[n] - points[m]).norm().item() for m in chosen)))
    return chosen


@pytest.mark.parametrize(("fast", "slow"), [(herding, slow_herding), (k_center, slow_k_center)])
class TestAgainstLoops:
    @settings(deadline=None, max_examples=40)
    @given(**sizes)
    def test_equals_the_slow_loop(self, fast, slow, count, share, seed):
        """Incremental sums and distances choose what forming them anew chooses, in the same order."""
        ipc = max(1, round(share * count))
        features = random_features(count, seed)
        if fast is herding and ipc == count and count > 1:
            ipc -= 1  # the last two free images tie exactly when only their sum is left to reach

        assert fast(features, ipc).tolist() == slow(features, ipc)

    def test_smaller_ipc_is_a_prefix(self, fast, slow):
        """Sets nest across ipc."""
        features = random_features(20, 1)

        assert fast(features, 12)[:5].tolist() == fast(features, 5).tolist()

    def test_order_of_images_does_not_matter(self, fast, slow):
        """Shuffled images give the same images."""
        features, order = random_features(20, 2), torch.randperm(20, generator=generator(0, "test-order"))

        assert order[fast(features[order], 6)].tolist() == fast(features, 6).tolist()

    def test_copies_are_chosen_in_order_and_never_twice(self, fast, slow):
        """Identical images tie, the lowest index wins, and asking for all of them returns each once."""
        assert fast(random_features(1, 3).expand(6, 5), 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_herding_of_four_points_by_hand():
    """Points 0, 1, 4, 5 with a 0 beside them have mean 2.5, and the steps are 1, 4, 5, 0.

    Step 0, target 2.5: 1 and 4 are both 1.5 away, the first wins. Step 1, target 5 - 1 = 4: 4.
    Step 2, target 7.5 - 5 = 2.5: 0 and 5 are both 2.5 away, the first wins: 0. Then 5 is left.
    """
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [5.0, 0.0]])

    assert herding(points, 4).tolist() == [1, 2, 0, 3]


def test_k_center_of_four_points_by_hand():
    """Points 0, 1, 4, 6: mean 2.75, nearest 4 (1.25 away); farthest from it 0 (4); then 6 (2); then 1."""
    points = torch.tensor([[0.0], [1.0], [4.0], [6.0]])

    assert k_center(points, 4).tolist() == [2, 0, 3, 1]


class TestRandomSubset:
    @settings(deadline=None)
    @given(**sizes)
    def test_sets_nest_across_ipc(self, count, share, seed):
        """The set for an ipc is the beginning of the set of all images, each once."""
        ipc = max(1, round(share * count))

        every = random_subset(count, count, generator(seed, "test-subset"))
        some = random_subset(count, ipc, generator(seed, "test-subset"))

        assert some.tolist() == every[:ipc].tolist()
        assert sorted(every.tolist()) == list(range(count))

    def test_every_image_can_come_first(self):
        """Over 200 generators each of 5 images leads about 40 times."""
        first = [int(random_subset(5, 1, generator(seed, "test-subset"))) for seed in range(200)]

        assert all(20 <= first.count(n) <= 65 for n in range(5))
