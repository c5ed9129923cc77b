"""Precision, recall, density, coverage and distance to boundaries, against plain loops."""

import pytest
import torch

from ims3core.axes.diagnostics.coverage import Coverage, boundary_distance
from ims3core.errors import DataError


def plain(real, fake, k):
    """The definitions of Naeem et al. (2020), point by point."""

    def radius(points, i, k):
        return sorted((points[i] - p).norm().item() for p in points)[k]

    balls = [radius(real, i, k) for i in range(len(real))]
    fakes = [radius(fake, j, min(k, len(fake) - 1)) for j in range(len(fake))]
    inside = [[(real[i] - fake[j]).norm().item() < balls[i] for j in range(len(fake))] for i in range(len(real))]
    return {
        "precision": sum(any(row[j] for row in inside) for j in range(len(fake))) / len(fake),
        "density": sum(map(sum, inside)) / (k * len(fake)),
        "coverage": sum(any(row) for row in inside) / len(real),
        "recall": sum(any((real[i] - fake[j]).norm().item() < fakes[j] for j in range(len(fake))) for i in range(len(real))) / len(real),
    }  # fmt: skip


def measured(real, fake, k=5):
    """As the stage measures."""
    coverage = Coverage(k=k, real_images=1000)
    return coverage.measure(real, fake, coverage.radii(real))


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_their_definitions(seed):
    """On random points, with more and with fewer fake points than neighbours."""
    stream = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(30, 3, generator=stream), 0.7 * torch.randn(3 + 8 * (seed % 2), 3, generator=stream)
    assert measured(real, fake) == pytest.approx(plain(real, fake, 5))


def test_real_images_lie_on_the_balls_that_reach_to_them():
    """A set of real images is full of ties, which no rounding of a matrix product may decide."""
    real = 5 + torch.rand(400, 1000, generator=torch.Generator().manual_seed(2))
    apart = torch.stack([(real.double() - one.double()).norm(dim=1) for one in real])
    inside = apart[:, ::4] < apart.kthvalue(6, dim=1).values[:, None]
    found = measured(real, real[::4])
    assert found["density"] == pytest.approx(inside.double().sum(0).mean().item() / 5)
    assert found["coverage"] == pytest.approx(inside.any(1).double().mean().item())


def test_a_copy_of_the_real_images_covers_everything_and_far_points_nothing():
    """The two ends of the scale."""
    real = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    same, far = measured(real, real), measured(real, real + 100)
    assert same["precision"] == same["coverage"] == same["recall"] == 1
    assert far["precision"] == far["coverage"] == far["density"] == far["recall"] == 0


def test_fewer_images_than_neighbours_are_refused():
    """The key and both numbers."""
    with pytest.raises(DataError, match=r"coverage\.k: found 5, 4 images have too few neighbours"):
        measured(torch.zeros(4, 2), torch.zeros(4, 2))


def test_the_real_images_that_are_compared_with_are_evenly_spaced():
    """At most as many as asked for, in order; all where there are fewer."""
    real = torch.arange(10.0)[:, None]
    assert Coverage(k=1, real_images=4).reference(real).flatten().tolist() == [0, 2, 5, 7]
    assert torch.equal(Coverage(k=1, real_images=99).reference(real), real)


def test_distance_to_the_boundary_is_how_far_one_must_move():
    """Moved by that distance towards the nearest class, the two logits are equal; the sign says which side it was."""
    stream = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(4, 6, generator=stream), torch.randn(4, generator=stream)
    features, classes = torch.randn(20, 6, generator=stream), torch.arange(20) % 4
    found = boundary_distance(features, classes, weight, bias)
    for x, c, distance in zip(features, classes, found, strict=True):
        logits = weight @ x + bias
        others = [j for j in range(4) if j != c]
        away = [(logits[c] - logits[j]) / (weight[c] - weight[j]).norm() for j in others]
        nearest = others[int(torch.stack(away).argmin())]
        direction = (weight[nearest] - weight[c]) / (weight[nearest] - weight[c]).norm()
        moved = weight @ (x + distance * direction) + bias
        assert moved[c].item() == pytest.approx(moved[nearest].item(), abs=1e-4)
        assert (distance > 0) == (logits.argmax() == c)
