"""The image-level objective: brute force on small instances, S3 as its special case, bounds, scale."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import normalize

from ims3core.s3 import images
from ims3core.s3.centroids import group_centroids
from ims3core.s3.objective import evaluate as evaluate_groups
from ims3core.s3.objective import make_instance

WEIGHTS = {"alpha": 0.4, "beta": 0.9, "eps": 1e-6, "normalisation": "paper"}


def instance(seed, classes=3, count=6, dim=5, **changes):
    noise = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 1, dim, generator=noise)
    features = normalize(centres + 0.8 * torch.randn(classes, count, dim, generator=noise), dim=-1)
    real = normalize(centres + 0.8 * torch.randn(classes, 20, dim, generator=noise), dim=-1)
    return images.make_problem(list(features), list(real), **WEIGHTS | changes), features, real


@pytest.mark.parametrize("seed", range(6))
def test_the_search_is_near_the_best_of_all_choices(seed):
    """All C(6, 2)^3 choices tried: never better than the optimum, above the bound, and a local optimum of swaps."""
    problem, _, _ = instance(seed)
    pairs = [torch.tensor(p) for p in itertools.combinations(range(6), 2)]
    best = min(images.evaluate(problem, list(choice)).total for choice in itertools.product(pairs, repeat=3))
    found = images.choose(problem, 2, max_sweeps=20)

    assert found.converged
    assert best - 1e-9 <= found.objective.total <= best + 0.15 * abs(best)
    assert images.lower_bound(problem) <= best
    for c in range(3):
        for out, new in itertools.product(range(2), set(range(6)) - set(found.chosen[c].tolist())):
            other = [own.clone() for own in found.chosen]
            other[c][out] = new
            assert images.evaluate(problem, other).total >= found.objective.total - 1e-4


def plain_choice(problem, ipc, sweeps=20):
    """The algorithm in words: every candidate and every swap evaluated from scratch, sets without images left out."""
    classes = range(len(problem.features))
    chosen = [[] for _ in classes]

    def total(sets):
        filled = [c for c in classes if sets[c]]
        part = images.Problem(
            [problem.features[c] for c in filled], problem.embed, problem.real[filled],
            problem.alpha, problem.pair_weight, problem.eps,
        )  # fmt: skip
        return images.evaluate(part, [torch.tensor(sets[c]) for c in filled]).total

    def changed(c, own):
        return [*chosen[:c], own, *chosen[c + 1 :]]

    for c in classes:
        for _ in range(ipc):
            rest = [n for n in range(len(problem.features[c])) if n not in chosen[c]]
            chosen[c] = min(([*chosen[c], n] for n in rest), key=lambda own, c=c: total(changed(c, own)))
    for _ in range(sweeps):
        before = [list(own) for own in chosen]
        for c in classes:
            while True:
                rest = [n for n in range(len(problem.features[c])) if n not in chosen[c]]
                swaps = [[*chosen[c][:k], n, *chosen[c][k + 1 :]] for k in range(ipc) for n in rest]
                best = min(swaps, key=lambda own, c=c: total(changed(c, own)))
                if total(changed(c, best)) >= total(chosen) - 1e-6 * (1 + abs(total(chosen))):
                    break
                chosen[c] = best
        if chosen == before:
            break
    return [sorted(own) for own in chosen]


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_does_what_its_words_say(seed, beta):
    """The same images as the plain version, with and without separation, of features and of a kernel."""
    fourier = images.fourier_features(0.7, dim=5, count=64, generator=torch.Generator().manual_seed(9))
    for embed in (torch.Tensor.float, fourier):
        problem, _, _ = instance(seed, count=12, alpha=1.0, beta=beta, embed=embed)
        found = images.choose(problem, 3, max_sweeps=20)
        assert [own.tolist() for own in found.chosen] == plain_choice(problem, 3)


def test_whole_groups_and_plain_features_are_s3():
    """The objective of a set of consecutive images is that of S3's group, when the real mean is S3's centroid."""
    _, features, real = instance(1, count=8)
    centroids = normalize(normalize(real, dim=-1).mean(1), dim=-1)
    groups = group_centroids(features.view(3, 4, 2, 5))
    theirs = make_instance(groups, centroids, **WEIGHTS)
    ours = images.make_problem(list(features), list(real), **WEIGHTS)
    for choice in itertools.product(range(4), repeat=3):
        chosen = [torch.arange(2 * g, 2 * g + 2) for g in choice]
        wanted, found = evaluate_groups(theirs, torch.tensor(choice)), images.evaluate(ours, chosen)
        assert (found.closeness, found.separation) == pytest.approx((wanted.closeness, wanted.separation), abs=1e-4)


def test_choosing_images_is_never_worse_than_choosing_groups():
    """The groups are among the sets: a search that starts greedily ends below the best group here."""
    for seed in range(4):
        problem, _, _ = instance(seed, count=8)
        groups = [torch.arange(2 * g, 2 * g + 2) for g in range(4)]
        best = min(images.evaluate(problem, list(c)).total for c in itertools.product(groups, repeat=3))
        assert images.choose(problem, 2, max_sweeps=20).objective.total <= best + 1e-6


def test_fourier_features_are_the_kernel():
    """Their products approach exp(-d^2 / 2 w^2)."""
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    embed = images.fourier_features(1.5, dim=4, count=20_000, generator=torch.Generator().manual_seed(1))
    wanted = (-torch.cdist(x, x).square() / (2 * 1.5**2)).exp()
    torch.testing.assert_close(embed(x) @ embed(x).T, wanted, atol=0.03, rtol=0)


def test_a_kernel_tells_distributions_apart_that_have_one_mean():
    """Two far images whose mean is the real one's are refused for two that lie where the real ones are."""
    real = [normalize(torch.tensor([[1.0, 0.05], [1.0, -0.05]]), dim=-1).repeat(10, 1), -torch.eye(2)[:1].repeat(5, 1)]
    pool = normalize(torch.tensor([[1.0, 3.0], [1.0, -3.0], [1.0, 0.1], [1.0, -0.06]]), dim=-1)
    embed = images.fourier_features(0.5, dim=2, count=4000, generator=torch.Generator().manual_seed(2))
    problem = images.make_problem([pool, -torch.eye(2)[:1].repeat(2, 1)], real, **WEIGHTS | {"beta": 0.0}, embed=embed)
    assert images.choose(problem, 2, max_sweeps=10).chosen[0].tolist() == [2, 3]


def test_one_class_has_no_pairs():
    """Closeness alone; everything finite."""
    problem, _, _ = instance(0, classes=1)
    found = images.choose(problem, 3, max_sweeps=5)
    assert found.objective.separation == 0 and math.isfinite(images.lower_bound(problem))


def test_the_bound_is_the_cosine_to_the_cone():
    """A target 60 degrees from the nearest edge: its cosine to any mean of candidates is at most cos 60 = 1/2, by hand.

    The bound takes the square of the distance to the cone; the distance itself, which is longer, would bound the
    cosine too low, and call a set optimal that is not.
    """
    angles = torch.tensor([math.radians(degrees) for degrees in (60, 70, 80)])
    candidates = torch.stack([angles.cos(), angles.sin()], 1)
    problem = images.make_problem([candidates], [torch.tensor([[1.0, 0.0]])], **WEIGHTS | {"alpha": 1.0, "beta": 0.0})
    assert images.lower_bound(problem) == pytest.approx(math.log(0.5 + 1e-6), abs=1e-5)
    assert images.choose(problem, 1, max_sweeps=3).objective.total == pytest.approx(
        images.lower_bound(problem), abs=1e-5
    )


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_no_set_of_any_size_is_below_the_bound(beta):
    """All subsets of four candidates in two classes, in twelve instances; without separation one is often at it."""
    subsets = [torch.tensor(own) for size in (1, 2, 3) for own in itertools.combinations(range(4), size)]
    for seed in range(12):
        problem, _, _ = instance(seed, classes=2, count=4, dim=3, beta=beta)
        bound = images.lower_bound(problem)
        assert (
            min(images.evaluate(problem, list(own)).total for own in itertools.product(subsets, repeat=2))
            >= bound - 1e-6
        )


def test_the_median_distance_is_that_of_all_pairs():
    """Of few features exactly; of many about the same."""
    x = torch.randn(1700, 3, generator=torch.Generator().manual_seed(0))
    pairs = [float((x[i] - x[j]).norm()) for i, j in itertools.combinations(range(31), 2)]
    assert images.median_distance(x[:31]) == pytest.approx(sorted(pairs)[len(pairs) // 2], rel=1e-6)
    assert images.median_distance(x) == pytest.approx(torch.pdist(x).median().item(), rel=0.05)
