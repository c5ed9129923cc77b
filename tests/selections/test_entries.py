"""The selection axis: what each entry keeps, and what it ignores."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.base.seeds import generator
from ims3core.selections import Candidates, Choice
from ims3core.selections.herding import herding
from ims3core.selections.k_center import k_center
from ims3core.shell import axes
from ims3core.shell.errors import DataError, ParameterError
from ims3core.subgroups import bounds

NAMES = ["cat", "dog", "owl"]
S3_SECTION = {
    "alpha": 0.4,
    "beta": 0.9,
    "groups": 4,
    "normalisation": "paper",
    "start": "nearest",
    "restarts": 2,
    "max_sweeps": 20,
    "eps": 1e-6,
}
S3_IMAGE_SECTION = {
    "alpha": 0.4,
    "beta": 0.9,
    "eps": 1e-6,
    "normalisation": "paper",
    "kernel": "gaussian",
    "bandwidth": 0.25,
    "frequencies": 64,
    "max_sweeps": 20,
}
SECTIONS = {
    "s3": S3_SECTION,
    "s3_image": S3_IMAGE_SECTION,
    "confidence": {"factor": 2, "order": "most"},
    "realism": {"crops": 1},
}


def candidates(counts: tuple[int, ...] = (25, 20, 30), dim: int = 6) -> list[Tensor]:
    """Per class unit features around a direction of its own."""
    noise = generator(0, "test-registry")
    return [
        normalize(torch.randn(dim, generator=noise) + 0.8 * torch.randn(count, dim, generator=noise), dim=-1)
        for count in counts
    ]


def entry(name: str):
    """The module of one selection."""
    return axes.load("selections", name, "here")


def keep(name: str, features: list[Tensor] | None = None, **changes) -> Choice:
    """A selection with plain arguments, except for ``changes``."""
    features = candidates() if features is None else features
    real = normalize(torch.stack([own.mean(0) for own in features]), dim=-1)
    logits = [torch.randn(len(own), 3, generator=generator(1, "test-logits", len(own))) for own in features]
    seen = Candidates(
        features, NAMES, changes.pop("real_centroids", real), real=lambda: features, images=logits.__getitem__,
        judge=lambda given: given,
    )  # fmt: skip
    arguments = {"ipc": 5, "seed": 0, "draw": 0, **SECTIONS.get(name, {}), **changes}
    return entry(name).select(seen, **arguments)


def as_lists(choice: Choice) -> list[list[int]]:
    """The indices as plain lists."""
    return [own.tolist() for own in choice.indices]


@pytest.mark.parametrize("name", axes.entries("selections"))
class TestEveryEntry:
    def test_keeps_ipc_distinct_candidates_of_each_class(self, name):
        """Each class gives ipc different positions within its candidates."""
        features = candidates()

        found = keep(name, features)

        assert len(found.groups) == len(found.indices) == 3
        for own, indices in zip(features, found.indices, strict=True):
            assert indices.dtype == torch.long
            assert len(set(indices.tolist())) == len(indices) == 5 * found.tiles
            assert 0 <= indices.min() <= indices.max() < len(own)

    def test_same_arguments_give_the_same_choice(self, name):
        """A selection is a function of its arguments; its report survives JSON unchanged."""
        first, second = keep(name), keep(name)

        assert as_lists(first) == as_lists(second)
        assert json.loads(json.dumps(first.report)) == first.report == second.report

    def test_deterministic_says_whether_the_draw_is_ignored(self, name):
        """An entry marked deterministic gives one choice for all draws and seeds."""
        found = {str(as_lists(keep(name, draw=draw, seed=seed))) for draw in range(3) for seed in range(2)}

        assert (name in ("herding", "k_center")) == entry(name).DETERMINISTIC
        if entry(name).DETERMINISTIC:
            assert len(found) == 1

    def test_is_content_with_as_many_candidates_as_it_says(self, name):
        """What it ``need`` is enough; the stage hands over no more."""
        need = entry(name).need(5, **SECTIONS.get(name, {}))
        if need is None:
            return
        features = candidates((need, need, need))
        found = keep(name, features)

        assert max(map(max, as_lists(found))) < need

    def test_takes_the_keys_of_its_section(self, name):
        """Every key of the entry's section is a parameter of the selection, and no other is needed."""
        section = entry(name).Section(**SECTIONS.get(name, {})).model_dump()

        assert as_lists(keep(name, **section)) == as_lists(keep(name))

    def test_class_with_too_few_candidates_is_named(self, name):
        """The error names the class, what it has and what is wanted."""
        wanted = entry(name).need(5, **SECTIONS.get(name, {})) or 5
        with pytest.raises(DataError, match=f"class dog: found 4 images, wanted at least {wanted}"):
            keep(name, candidates((40, 4, 40)))


class TestFirst:
    def test_takes_the_first_candidates(self):
        """Independent draws are candidates 0 .. ipc - 1."""
        assert as_lists(keep("first")) == [[0, 1, 2, 3, 4]] * 3


class TestRandom:
    def test_differs_between_draws_seeds_and_classes_and_nests_across_ipc(self):
        """Every (seed, draw, class) has its own permutation, and ipc cuts it."""
        base = as_lists(keep("random", candidates((25, 25, 25))))

        assert base[0] != base[1]
        assert base != as_lists(keep("random", candidates((25, 25, 25)), draw=1))
        assert base != as_lists(keep("random", candidates((25, 25, 25)), seed=1))
        assert [own[:5] for own in as_lists(keep("random", candidates((25, 25, 25)), ipc=9))] == base


class TestCoresets:
    @pytest.mark.parametrize(("name", "run"), [("herding", herding), ("k_center", k_center)])
    def test_works_class_by_class(self, name, run):
        """The choice of a class is that of its features alone."""
        features = candidates()

        assert as_lists(keep(name, features)) == [run(own, 5).tolist() for own in features]


class TestS3:
    def test_takes_the_images_of_one_group(self):
        """Group g of ipc K is candidates g K .. (g + 1) K - 1."""
        found = keep("s3")

        assert as_lists(found) == [list(range(g * 5, g * 5 + 5)) for g in found.groups]
        assert all(0 <= g < 4 for g in found.groups)

    def test_choice_is_the_optimum_of_its_group_centroids(self):
        """On this small instance the search ends in the best of all 64 choices, and the report says so."""
        features = candidates()
        real = normalize(torch.stack([own.mean(0) for own in features]), dim=-1)
        groups = torch.stack([normalize(own[:20].view(4, 5, -1).mean(1), dim=-1) for own in features])
        weights = {key: S3_SECTION[key] for key in ("alpha", "beta", "eps", "normalisation")}

        found = keep("s3", features, restarts=10)

        best = bounds.exhaustive(groups, real, **weights)
        assert found.groups == best.choice.tolist()
        assert found.report["objective"] == pytest.approx(best.objective.total, abs=1e-5)
        assert (found.report["bound_kind"], found.report["gap"]) == ("exhaustive", pytest.approx(0, abs=1e-9))

    def test_candidates_beyond_the_groups_do_not_count(self):
        """Only the first groups x ipc candidates are read."""
        features = candidates()
        fewer = [own[:20] for own in features]
        real = normalize(torch.stack([own.mean(0) for own in features]), dim=-1)

        assert keep("s3", features, real_centroids=real).report == keep("s3", fewer, real_centroids=real).report

    def test_report_holds_the_terms_the_bound_and_the_search(self):
        """The report's terms add up and its search facts are there."""
        report = keep("s3").report

        assert set(report) == {
            "objective",
            "closeness",
            "separation",
            "bound",
            "bound_kind",
            "gap",
            "sweeps",
            "converged",
            "engine",
        }
        assert report["closeness"] + report["separation"] == pytest.approx(report["objective"])
        assert report["converged"] is True

    def test_random_start_depends_on_the_draw(self):
        """One sweep from random starts does not end alike for all draws of a hard instance."""
        features = candidates((40,) * 3)
        strong = {
            "start": "random",
            "groups": 8,
            "restarts": 1,
            "max_sweeps": 1,
            "normalisation": "official",
            "beta": 9.0,
        }

        found = {str(keep("s3", features, draw=draw, **strong).groups) for draw in range(12)}

        assert len(found) > 1

    def test_missing_real_centroids_are_an_error(self):
        """S3 compares with real images and says so."""
        with pytest.raises(ParameterError, match="s3: found no real centroids"):
            keep("s3", real_centroids=None)


class TestS3Image:
    def test_a_class_without_a_choice_is_named(self):
        """Candidates whose features coincide, as a collapsed generator makes them."""
        features = candidates()
        features[1] = features[1][:1].expand(20, -1)
        with pytest.raises(DataError, match="class dog: all 20 candidates have the same features"):
            keep("s3_image", features)

    def test_too_few_candidates_are_counted(self):
        with pytest.raises(DataError, match=r"class dog: found 4 images, wanted at least 5 \(ipc 5\)"):
            keep("s3_image", candidates((25, 4, 30)))

    def test_the_only_candidate_is_taken(self):
        """One left of a class, one wanted: nothing to choose, and no reason to fail."""
        found = keep("s3_image", candidates((25, 1, 30)), ipc=1)
        assert found.indices[1].tolist() == [0]
