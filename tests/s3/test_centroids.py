"""Centroids on the unit sphere against means worked out by hand and by loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.base.seeds import generator
from ims3core.errors import DataError, NumericsError
from ims3core.s3.centroids import first_minimum, group_centroids, real_centroids, unit


def unit_features(count: int, dim: int, seed: int = 0) -> Tensor:
    """(count, dim) random unit vectors."""
    return normalize(torch.randn(count, dim, generator=generator(seed, "test-features")), dim=-1)


def centroids_of(features: Tensor, class_index: Tensor, *, classes: int, real_per_class: int = 200) -> Tensor:
    """``real_centroids`` with one generator per class."""
    return real_centroids(
        features,
        class_index,
        classes=classes,
        real_per_class=real_per_class,
        generator_for=lambda i: generator(0, "test-real", i),
    )


class TestRealCentroids:
    def test_two_right_angles_give_the_diagonal(self):
        """The centroid of (1, 0) and (0, 1) is (1, 1) / sqrt 2; a class of one image is that image."""
        features = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])

        found = centroids_of(features, torch.tensor([0, 1, 0]), classes=2)

        torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))

    def test_images_of_a_large_class_are_the_first_of_its_seeded_permutation(self):
        """With fewer than its images asked for, a class averages the first of its own permutation."""
        features, class_index = unit_features(40, 6), torch.arange(40) % 3

        found = centroids_of(features, class_index, classes=3, real_per_class=5)

        for i in range(3):
            own = [n for n in range(40) if n % 3 == i]
            order = torch.randperm(len(own), generator=generator(0, "test-real", i)).tolist()
            mean = sum(features[own[k]] for k in order[:5]) / 5
            torch.testing.assert_close(found[i], mean / mean.norm())

    def test_another_class_does_not_change_a_centroid(self):
        """A class keeps its centroid, bit for bit, when the images of another class are removed."""
        features, class_index = unit_features(30, 4), torch.arange(30) % 2
        fewer = (class_index == 0) | (torch.arange(30) > 20)

        every = centroids_of(features, class_index, classes=2, real_per_class=4)
        some = centroids_of(features[fewer], class_index[fewer], classes=2, real_per_class=4)

        assert torch.equal(every[0], some[0])

    def test_whole_class_does_not_depend_on_the_permutation(self):
        """With enough images asked for, another generator gives the same bits."""
        features, class_index = unit_features(30, 4), torch.zeros(30, dtype=torch.long)

        found = [
            real_centroids(
                features,
                class_index,
                classes=1,
                real_per_class=30,
                generator_for=lambda i, s=seed: generator(s, "x", i),
            )
            for seed in (0, 1)
        ]

        assert torch.equal(*found)

    def test_empty_class_is_named(self):
        """A class without an image is an error that says which class."""
        with pytest.raises(DataError, match="class 1: found 0 images"):
            centroids_of(unit_features(4, 3), torch.tensor([0, 2, 2, 0]), classes=3)

    @pytest.mark.parametrize("stray", [-1, 2])
    def test_class_outside_the_range_is_an_error(self, stray):
        """An image of an unknown class is an error that gives both ranges."""
        with pytest.raises(DataError, match=r"class_index: found values .* wanted them in \[0, 1\]"):
            centroids_of(unit_features(3, 3), torch.tensor([0, 1, stray]), classes=2)

    def test_no_image_at_all_is_an_error(self):
        """An empty data set is the empty class 0."""
        with pytest.raises(DataError, match="class 0: found 0 images"):
            centroids_of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), classes=2)


class TestGroupCentroids:
    def test_each_group_is_the_normalised_mean_of_its_images(self):
        """Every (class, group) equals its mean over images, divided by its norm."""
        features = unit_features(2 * 3 * 4, 5).view(2, 3, 4, 5)

        found = group_centroids(features)

        for i in range(2):
            for g in range(3):
                mean = sum(features[i, g, k] for k in range(4)) / 4
                torch.testing.assert_close(found[i, g], mean / mean.norm())

    def test_length_of_a_feature_does_not_count(self):
        """Features are normalised before they are averaged."""
        features = unit_features(8, 5).view(1, 2, 4, 5)
        lengths = torch.arange(1.0, 9.0).view(1, 2, 4, 1)

        torch.testing.assert_close(group_centroids(features * lengths), group_centroids(features))

    def test_opposite_images_have_no_centroid(self):
        """A group whose mean is zero is an error, not a vector of NaN."""
        features = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).view(1, 1, 2, 2)

        with pytest.raises(NumericsError, match=r"group_centroids: found a vector of norm 0 at index \(0, 0\)"):
            group_centroids(features)


class TestUnit:
    def test_argument_is_left_alone(self):
        """Normalising float64 vectors does not write into them."""
        vectors = torch.full((2, 2), 3.0, dtype=torch.float64)

        unit(vectors, name="v")

        assert torch.equal(vectors, torch.full((2, 2), 3.0, dtype=torch.float64))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_non_finite_vector_is_an_error(self, value):
        """A vector that is not finite is an error that says where it is."""
        vectors = torch.ones(3, 2)
        vectors[1, 0] = value

        with pytest.raises(NumericsError, match=r"encoded: found a vector of norm (nan|inf) at index \(1,\)"):
            unit(vectors, name="encoded")


class TestFirstMinimum:
    @settings(deadline=None)
    @given(st.lists(st.integers(-5, 5), min_size=1, max_size=8), st.integers(0, 2**16))
    def test_rounding_does_not_break_a_tie(self, values, seed):
        """Noise of rounding size still leaves the lowest index of the smallest value."""
        noise = torch.rand(len(values), generator=generator(seed, "test-noise"), dtype=torch.float64) * 1e-13

        assert first_minimum(torch.tensor(values, dtype=torch.float64) + noise) == values.index(min(values))
