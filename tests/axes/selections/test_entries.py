"""The selection axis: what each entry keeps, and what it ignores."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.axes.selections import Candidates, Choice, Selection
from ims3core.axes.selections.herding import herding
from ims3core.axes.selections.k_center import k_center
from ims3core.base.seeds import generator
from ims3core.errors import DataError
from ims3core.params import entries
from ims3core.s3 import bounds
from ims3core.s3.objective import make_instance

NAMES = ["cat", "dog", "owl"]
WEIGHTS = {"alpha": 0.4, "beta": 0.9, "eps": 1e-6, "normalisation": "paper"}
SECTIONS = {
    "s3": {**WEIGHTS, "groups": 4, "start": "nearest", "restarts": 2, "max_sweeps": 20},
    "s3_image": {**WEIGHTS, "kernel": "gaussian", "bandwidth": 0.25, "frequencies": 64, "max_sweeps": 20},
    "confidence": {"factor": 2, "order": "most"},
    "realism": {"crops": 1},
}


def features_of(counts: tuple[int, ...] = (25, 20, 30), dim: int = 6) -> list[Tensor]:
    """Per class unit features around a direction of its own."""
    noise = generator(0, "test-registry")
    return [
        normalize(torch.randn(dim, generator=noise) + 0.8 * torch.randn(count, dim, generator=noise), dim=-1)
        for count in counts
    ]


def entry(name: str, **changes) -> Selection:
    """A selection with a plain section, except for ``changes``."""
    return entries.entry_class("selections", name, "here")(**SECTIONS.get(name, {}) | changes)


def seen_by(selection: Selection, features: list[Tensor]) -> Candidates:
    """What a selection that says what it needs is given."""
    centroids = normalize(torch.stack([points.mean(0) for points in features]), dim=-1)
    logits = [torch.randn(len(points), 3, generator=generator(1, "test-logits", len(points))) for points in features]
    extra = {"real": lambda: features} if selection.needs_real_features else {}
    extra |= {"teacher": lambda images: images} if selection.needs_teacher else {}
    return Candidates(features, NAMES, centroids, images=logits.__getitem__, **extra)


def keep(name: str, features=None, *, ipc=5, seed=0, draw=0, centroids=None, **section) -> Choice:
    """The choice of a selection from plain arguments."""
    selection = entry(name, **section)
    candidates = seen_by(selection, features_of() if features is None else features)
    if centroids is not None:
        candidates = dataclasses.replace(candidates, real_centroids=centroids)
    return selection.select(candidates, ipc=ipc, seed=seed, draw=draw)


def as_lists(choice: Choice) -> list[list[int]]:
    """The indices as plain lists."""
    return [indices.tolist() for indices in choice.indices]


@pytest.mark.parametrize("name", entries.names("selections"))
class TestEveryEntry:
    def test_keeps_ipc_distinct_candidates_of_each_class(self, name):
        """Each class gives ipc different positions within its candidates."""
        features = features_of()

        choice = keep(name, features)

        assert len(choice.groups) == len(choice.indices) == 3
        for points, indices in zip(features, choice.indices, strict=True):
            assert indices.dtype == torch.long
            assert len(set(indices.tolist())) == len(indices) == 5 * choice.tiles
            assert 0 <= indices.min() <= indices.max() < len(points)

    def test_same_arguments_give_the_same_choice(self, name):
        """A selection is a function of its arguments; its report survives JSON unchanged."""
        first, second = keep(name), keep(name)

        assert as_lists(first) == as_lists(second)
        assert json.loads(json.dumps(first.report)) == first.report == second.report

    def test_deterministic_says_whether_the_draw_is_ignored(self, name):
        """An entry marked deterministic gives one choice for all draws and seeds."""
        choices = {str(as_lists(keep(name, draw=draw, seed=seed))) for draw in range(3) for seed in range(2)}

        assert (name in ("herding", "k_center")) == entry(name).deterministic
        if entry(name).deterministic:
            assert len(choices) == 1

    def test_is_content_with_as_many_candidates_as_it_says(self, name):
        """What it says it needs is enough; the stage hands over no more."""
        count = entry(name).candidates_needed(5)
        if count is None:
            return
        choice = keep(name, features_of((count, count, count)))

        assert max(map(max, as_lists(choice))) < count

    def test_class_with_too_few_candidates_is_named(self, name):
        """The error names the class, what it has and what is wanted."""
        count = entry(name).candidates_needed(5) or 5
        with pytest.raises(DataError, match=rf"class dog: found 4 images, wanted at least {count} \(.*ipc 5"):
            keep(name, features_of((40, 4, 40)))


class Curious(Selection):
    """Looks at everything, and says nothing of it."""

    def select(self, candidates, *, ipc, seed, draw):
        return candidates.teacher(candidates.images(0)) if ipc else candidates.real()


@pytest.mark.parametrize(("ipc", "flag"), [(1, "needs_teacher"), (0, "needs_real_features")])
def test_what_a_selection_does_not_say_it_needs_it_is_not_given(ipc, flag):
    """The error names the flag that its class has to set."""
    with pytest.raises(LookupError, match=f"has to set {flag}"):
        Curious().select(seen_by(Curious(), features_of()), ipc=ipc, seed=0, draw=0)


class TestFirst:
    def test_takes_the_first_candidates(self):
        """Independent draws are candidates 0 .. ipc - 1."""
        assert as_lists(keep("first")) == [[0, 1, 2, 3, 4]] * 3


class TestRandom:
    def test_differs_between_draws_seeds_and_classes_and_nests_across_ipc(self):
        """Every (seed, draw, class) has its own permutation, and ipc cuts it."""
        base = as_lists(keep("random", features_of((25, 25, 25))))

        assert base[0] != base[1]
        assert base != as_lists(keep("random", features_of((25, 25, 25)), draw=1))
        assert base != as_lists(keep("random", features_of((25, 25, 25)), seed=1))
        assert [own[:5] for own in as_lists(keep("random", features_of((25, 25, 25)), ipc=9))] == base


class TestCoresets:
    @pytest.mark.parametrize(("name", "run"), [("herding", herding), ("k_center", k_center)])
    def test_works_class_by_class(self, name, run):
        """The choice of a class is that of its features alone."""
        features = features_of()

        assert as_lists(keep(name, features)) == [run(own, 5).tolist() for own in features]


class TestS3:
    def test_takes_the_images_of_one_group(self):
        """Group g of ipc K is candidates g K .. (g + 1) K - 1."""
        found = keep("s3")

        assert as_lists(found) == [list(range(g * 5, g * 5 + 5)) for g in found.groups]
        assert all(0 <= g < 4 for g in found.groups)

    def test_choice_is_the_optimum_of_its_group_centroids(self):
        """On this small instance the search ends in the best of all 64 choices, and the report says so."""
        features = features_of()
        real = normalize(torch.stack([own.mean(0) for own in features]), dim=-1)
        groups = torch.stack([normalize(own[:20].view(4, 5, -1).mean(1), dim=-1) for own in features])

        found = keep("s3", features, restarts=10)

        best = bounds.exhaustive(make_instance(groups, real, **WEIGHTS))
        assert found.groups == best.choice.tolist()
        assert found.report["objective"] == pytest.approx(best.objective.total, abs=1e-5)
        assert (found.report["bound_kind"], found.report["gap"]) == ("exhaustive", pytest.approx(0, abs=1e-9))

    def test_candidates_beyond_the_groups_do_not_count(self):
        """Only the first groups x ipc candidates are read."""
        features = features_of()
        fewer = [own[:20] for own in features]
        real = normalize(torch.stack([own.mean(0) for own in features]), dim=-1)

        assert keep("s3", features, centroids=real).report == keep("s3", fewer, centroids=real).report

    def test_report_holds_the_terms_the_bound_and_the_search(self):
        """The report's terms add up and its search facts are there."""
        report = keep("s3").report

        assert set(report) == {
            "objective", "closeness", "separation", "bound", "bound_kind", "gap", "sweeps", "converged", "engine",
        }  # fmt: skip
        assert report["closeness"] + report["separation"] == pytest.approx(report["objective"])
        assert report["converged"] is True

    def test_random_start_depends_on_the_draw(self):
        """One sweep from random starts does not end alike for all draws of a hard instance."""
        features = features_of((40,) * 3)
        strong = {"start": "random", "groups": 8, "restarts": 1, "max_sweeps": 1, "normalisation": "official"}

        found = {str(keep("s3", features, draw=draw, beta=9.0, **strong).groups) for draw in range(12)}

        assert len(found) > 1

    def test_missing_real_centroids_are_an_error(self):
        """S3 compares every class with a real centroid and says so."""
        with pytest.raises(DataError, match=r"real_centroids: found shapes \(3, 4, 6\) and \(2, 6\), wanted"):
            keep("s3", centroids=torch.ones(2, 6))


class TestS3Image:
    @pytest.mark.parametrize("bandwidth", [0.5, 2.0])
    def test_the_gaussian_kernel_is_as_wide_as_its_bandwidth(self, bandwidth):
        """Products of what sets are means of: exp(-d^2 / 2 w^2), w in median distances between real features."""
        real = features_of()
        points = torch.cat(real)
        embed = entry("s3_image", bandwidth=bandwidth, frequencies=20_000)._embedding(real, seed=0)
        found = embed(points[::3])
        wide = bandwidth * torch.pdist(points).median()
        wanted = (-torch.cdist(points[::3], points[::3]).square() / (2 * wide**2)).exp()
        assert wanted.min() < 0.85
        torch.testing.assert_close(found @ found.T, wanted, atol=0.05, rtol=0)

    def test_the_linear_kernel_compares_features_themselves(self):
        """As s3 does: whatever the bandwidth."""
        real = features_of()
        embed = entry("s3_image", kernel="linear")._embedding(real, seed=0)
        assert torch.equal(embed(real[0]), real[0])

    def test_a_class_without_a_choice_is_named(self):
        """Candidates whose features coincide, as a collapsed generator makes them."""
        features = features_of()
        features[1] = features[1][:1].expand(20, -1)
        with pytest.raises(DataError, match="class dog: all 20 candidates have the same features"):
            keep("s3_image", features)

    def test_too_few_candidates_are_counted(self):
        """One class with fewer than IPC images is refused."""
        with pytest.raises(DataError, match=r"class dog: found 4 images, wanted at least 5 \(ipc 5\)"):
            keep("s3_image", features_of((25, 4, 30)))

    def test_the_only_candidate_is_taken(self):
        """One left of a class, one wanted: nothing to choose, and no reason to fail."""
        found = keep("s3_image", features_of((25, 1, 30)), ipc=1)
        assert found.indices[1].tolist() == [0]
