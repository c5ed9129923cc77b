"""What samplers are told of the real latents: modes and moments, against plain versions."""

import pytest
import torch

from ims3core.axes.guides.modes import Modes
from ims3core.axes.guides.none import NoGuide
from ims3core.axes.guides.statistics import Statistics, moment_scores
from ims3core.diffusion.sampling import Denoiser
from ims3core.diffusion.schedule import linear_schedule, respace
from ims3core.errors import DataError, NumericsError

KEYS = {"steps": 6, "level": 0.5, "guidance": 1.0, "guided_channels": 4}
STATISTICS = KEYS | {"sets": 1, "skewness": "per_dimension"}


def stream(seed):
    return torch.Generator().manual_seed(seed)


def clusters():
    """Sixty latents around three far points."""
    centres = 10 * torch.eye(3).repeat_interleave(2, 1).view(3, 1, 2, 3)
    return torch.cat([c + 0.1 * torch.randn(20, 1, 2, 3, generator=stream(n)) for n, c in enumerate(centres)]), centres


def test_centres_are_the_means_of_the_clusters():
    """On separated clusters k-means finds them, whatever the seed; shapes are those of latents."""
    latents, _ = clusters()
    found = Modes(finder="centre", restarts=3).start({"latents": latents}, 3, stream(5))
    means = latents.view(3, 20, 1, 2, 3).mean(1)
    nearest = torch.cdist(means.flatten(1), found.flatten(1)).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    assert nearest.values.max() < 1e-5


def test_nearest_and_random_modes_are_real_latents():
    """Each is one of the class, the nearest ones those closest to the centres."""
    latents, _ = clusters()
    for finder in ("nearest", "random"):
        found = Modes(finder=finder, restarts=2).start({"latents": latents}, 3, stream(1))
        assert all((latents == mode).flatten(1).all(1).any() for mode in found)
    means = latents.view(3, 20, 1, 2, 3).mean(1)
    found = Modes(finder="nearest", restarts=2).start({"latents": latents}, 3, stream(1))
    nearest = torch.stack([latents[(latents - m).flatten(1).norm(dim=1).argmin()] for m in means])
    assert {tuple(m.flatten().tolist()) for m in found} == {tuple(m.flatten().tolist()) for m in nearest}


def test_more_modes_than_images_are_refused():
    """The class's size and the IPC are named."""
    with pytest.raises(DataError, match="a class has 4 training images, wanted at least IPC 5"):
        Modes(finder="centre", restarts=1).start({"latents": torch.zeros(4, 1, 2, 2)}, 5, stream(0))


def test_moment_scores_are_their_definition():
    """Against loops over sets and dimensions."""
    sets, mean, std = torch.randn(3, 5, 4, generator=stream(0)), torch.randn(4, generator=stream(1)), torch.rand(4)
    for form in ("per_dimension", "official"):
        expected = []
        for points in sets:
            m, s = points.mean(0), points.var(0, correction=0).sqrt()
            rows = points.T if form == "per_dimension" else points
            skew = torch.stack([((r - r.mean()) ** 3).mean() / r.var(correction=0) ** 1.5 for r in rows])
            expected.append((m - mean).norm() + (s - std).norm() + 0.1 * skew.norm())
        torch.testing.assert_close(moment_scores(sets, mean, std, skewness=form), torch.stack(expected))


def test_the_best_of_many_sets_is_kept(monkeypatch):
    """More sets never score worse, chunks do not change the choice, and the draw decides the points."""
    prepared = {"mean": torch.randn(1, 2, 2, generator=stream(2)), "std": torch.ones(1, 2, 2)}

    def best(sets, seed=0):
        return Statistics(**STATISTICS | {"sets": sets}).start(prepared, 6, stream(seed))

    def score(points):
        return moment_scores(points.flatten(1)[None], prepared["mean"].flatten(), prepared["std"].flatten()).item()

    assert score(best(400)) <= score(best(20)) <= score(best(1))
    assert not torch.equal(best(20), best(20, seed=1))
    whole = best(64)
    assert whole.shape == (6, 1, 2, 2)
    monkeypatch.setattr("ims3core.axes.guides.statistics.CHUNK_VALUES", 8 * whole.numel())
    torch.testing.assert_close(best(64), whole)


def test_inversion_ends_where_the_exact_map_does():
    """For a network that always predicts the same noise every Euler step is exact: the closed form of the walk."""
    schedule, eps = linear_schedule(), torch.randn(1, 4, 2, 2, generator=stream(3))

    told = []

    def network(z, t, label):
        told.append(t.unique().tolist())
        return torch.cat([eps.expand_as(z), torch.zeros_like(z)], 1)

    denoiser = Denoiser(network, schedule, 3, torch.device("cpu"), torch.float32)
    z0 = torch.randn(5, 4, 2, 2, generator=stream(4))
    guide = Statistics(**STATISTICS | {"skewness": "official"})
    inverted = guide.invert_guided(denoiser, z0, 1)
    first, second, *_ = respace(
        schedule, 6
    ).timesteps.tolist()  # the level it stands at; clean latents are at the first
    assert [t for [t] in told[:: len(told) // 3]] == [first, first, second]
    a = respace(schedule, 6).alpha_bar[2].float()
    torch.testing.assert_close(inverted, a.sqrt() * z0 + (1 - a).sqrt() * eps)
    prepared = guide.prepare(z0, denoiser, 1)
    torch.testing.assert_close(prepared["mean"], inverted.mean(0))
    torch.testing.assert_close(prepared["std"], inverted.std(0, correction=0))
    assert guide.network_calls(5) == 5 * 3


def test_inverted_latents_come_back(tiny_dit):
    """Up by the guide and down by the sampler, without guidance: the nearer to the start, the finer the steps."""
    from ims3core.axes.samplers.from_statistics import FromStatistics

    denoiser = Denoiser(tiny_dit, linear_schedule(), 3, torch.device("cpu"), torch.float32)
    z0, away = torch.randn(4, 4, 4, 4, generator=stream(6)), []
    for steps in (20, 100, 500):
        keys = KEYS | {"steps": steps}
        up = Statistics(**STATISTICS | keys).invert_guided(denoiser, z0, 1)
        with torch.inference_mode():
            down = FromStatistics(**keys).sample(denoiser, torch.ones(4, dtype=torch.int64), None, up)
        away.append(((down - z0).norm() / z0.norm()).item())
    assert away == sorted(away, reverse=True)
    assert away[-1] < 0.1


def test_moments_that_are_not_finite_are_refused():
    """No set is the best of them."""
    broken = {"mean": torch.full((1, 2, 2), float("nan")), "std": torch.ones(1, 2, 2)}
    with pytest.raises(NumericsError, match="guide statistics: moments of inverted latents are not finite"):
        Statistics(**STATISTICS).start(broken, 2, stream(0))


def test_no_guide_prepares_and_gives_nothing():
    """And it costs no network call."""
    assert NoGuide.provides == "nothing"
    assert NoGuide().prepare(torch.zeros(3, 1, 2, 2), None, 0) == {}
    assert NoGuide().start({}, 2, stream(0)) is None
    assert NoGuide().network_calls(100) == Modes(finder="centre", restarts=1).network_calls(100) == 0
