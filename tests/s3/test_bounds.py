"""The optimum and the lower bounds against a plain loop over all choices."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.base.seeds import generator
from ims3core.errors import NumericsError, ParameterError
from ims3core.s3 import bounds
from ims3core.s3.bounds import exhaustive, gap, lower_bound
from ims3core.s3.objective import evaluate, make_instance
from ims3core.s3.search import select_groups

WEIGHTS = {"alpha": 0.4, "beta": 0.9, "eps": 1e-6, "normalisation": "paper"}

problems = st.fixed_dictionaries(
    {
        "classes": st.integers(1, 5),
        "groups": st.integers(1, 4),
        "seed": st.integers(0, 2**16),
        "alpha": st.floats(0, 2),
        "beta": st.floats(0, 2),
        "eps": st.sampled_from([0.0, 1e-6, 0.1]),
        "normalisation": st.sampled_from(["paper", "official"]),
    }
)


def random_instance(classes: int, groups: int, seed: int = 0, dim: int = 4) -> tuple[Tensor, Tensor]:
    """Group centroids scattered around real centroids that are themselves close to each other."""
    noise = generator(seed, "test-bounds", classes, groups)
    real = normalize(1 + torch.randn(classes, dim, generator=noise), dim=-1)
    scatter = torch.randn(classes, groups, dim, generator=noise)
    return normalize(real[:, None] + 0.7 * scatter, dim=-1), real


def split(problem: dict) -> tuple[tuple[Tensor, Tensor], dict]:
    """The centroids and the weights of a drawn problem."""
    weights = {key: problem[key] for key in WEIGHTS}
    return random_instance(problem["classes"], problem["groups"], problem["seed"]), weights


def loop_over_choices(groups: Tensor, real: Tensor, **weights) -> tuple[tuple[int, ...], float]:
    """The best choice and its objective, one choice at a time."""
    problem = make_instance(groups, real, **weights)
    every = itertools.product(range(groups.shape[1]), repeat=len(groups))
    return min(((c, evaluate(problem, torch.tensor(c)).total) for c in every), key=lambda pair: pair[1])


class TestExhaustive:
    @settings(deadline=None, max_examples=40)
    @given(problems)
    def test_equals_the_loop_over_all_choices(self, problem):
        """The optimum is that of itertools.product."""
        instance, weights = split(problem)

        found = exhaustive(make_instance(*instance, **weights))
        choice, value = loop_over_choices(*instance, **weights)

        assert found.objective.total == pytest.approx(value, abs=1e-9)
        if problem["alpha"] > 0.01:
            assert tuple(found.choice.tolist()) == choice

    def test_choice_follows_groups_that_change_places(self):
        """Renumbering the groups of a class renumbers its choice and keeps the optimum."""
        groups, real = random_instance(4, 4, seed=7)
        order = torch.stack([torch.randperm(4, generator=generator(i, "test-order")) for i in range(4)])

        before = exhaustive(make_instance(groups, real, **WEIGHTS))
        after = exhaustive(make_instance(torch.stack([groups[i, order[i]] for i in range(4)]), real, **WEIGHTS))

        assert order[torch.arange(4), after.choice].tolist() == before.choice.tolist()
        assert after.objective.total == pytest.approx(before.objective.total, abs=1e-10)

    def test_choice_follows_classes_that_change_places(self):
        """Reordering the classes reorders the optimum."""
        groups, real = random_instance(5, 3, seed=8)
        order = torch.tensor([3, 0, 4, 1, 2])

        before = exhaustive(make_instance(groups, real, **WEIGHTS))
        after = exhaustive(make_instance(groups[order], real[order], **WEIGHTS))

        assert after.choice.tolist() == before.choice[order].tolist()

    def test_ten_classes_of_five_groups_are_affordable_and_never_beaten(self):
        """The paper's ten-class size, 9.8 million choices, is within the limit, and no descent goes below it."""
        instance = random_instance(10, 5, seed=1)

        found = exhaustive(make_instance(*instance, **WEIGHTS))

        descent = select_groups(
            make_instance(*instance, **WEIGHTS), start="nearest", restarts=10, max_sweeps=50,
            generator=generator(0, "starts"),
        )  # fmt: skip
        assert descent.objective.total >= found.objective.total - 1e-9

    def test_too_many_choices_are_refused(self):
        """Above the limit the error gives both sizes and the limit."""
        with pytest.raises(ParameterError, match=r"s3\.groups: found 3 groups for 4 classes, more than the 80 choices"):
            exhaustive(make_instance(*random_instance(4, 3), **WEIGHTS), limit=80)
        exhaustive(make_instance(*random_instance(4, 3), **WEIGHTS), limit=81)

    def test_coinciding_candidates_without_eps_name_the_key(self):
        """Two equal candidates of different classes are log 0 in some choice."""
        groups, real = random_instance(3, 2)
        groups[2, 1] = groups[0, 1]

        with pytest.raises(NumericsError, match=r"s3\.eps: found 0 while a candidate of class 0 and one of class 2"):
            exhaustive(make_instance(groups, real, **{**WEIGHTS, "eps": 0.0}))


class TestLowerBound:
    @settings(deadline=None, max_examples=60)
    @given(problems)
    def test_never_exceeds_the_optimum(self, problem):
        """Simple and dual bound stay below the best of all choices, the dual above the simple one."""
        instance, weights = split(problem)

        optimum = exhaustive(make_instance(*instance, **weights)).objective.total
        dual = lower_bound(make_instance(*instance, **weights))
        simple = lower_bound(make_instance(*instance, **weights), max_matrix_bytes=0)

        assert simple.kind == "simple"
        assert dual.kind == ("dual" if problem["classes"] > 1 else "simple")
        assert simple.value <= dual.value + 1e-9
        assert dual.value <= optimum + 1e-9

    @settings(deadline=None, max_examples=30)
    @given(problems)
    def test_history_rises_from_the_simple_bound(self, problem):
        """The dual starts at the simple bound, computed in blocks or from the matrix, and never falls."""
        instance, weights = split(problem)

        dual = lower_bound(make_instance(*instance, **weights), rounds=12)
        simple = lower_bound(make_instance(*instance, **weights), max_matrix_bytes=0)

        assert dual.history[0] == pytest.approx(simple.value, abs=1e-9)
        assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(dual.history))
        assert dual.value == dual.history[-1]

    def test_simple_bound_equals_its_formula(self):
        """sum_i min_g [U_i(g) + 1/2 sum_j min_h W_ij(g, h)], one term at a time."""
        groups, real = random_instance(4, 3, seed=2)
        weight = 2 * 0.9 / 3
        expected = 0.0
        for i in range(4):
            options = []
            for g in range(3):
                own = groups[i, g].double()
                value = 0.4 * torch.log(1 - own @ real[i].double() + 1e-6)
                for j in set(range(4)) - {i}:
                    value += 0.5 * min(-weight * torch.log(1 - own @ groups[j, h].double() + 1e-6) for h in range(3))
                options.append(value.item())
            expected += min(options)

        found = lower_bound(make_instance(groups, real, **WEIGHTS), max_matrix_bytes=0)

        assert found.value == pytest.approx(expected, abs=1e-5)

    def test_simple_bound_does_not_depend_on_the_block_size(self, monkeypatch):
        """One class per block gives the same bound as all classes at once."""
        instance = random_instance(7, 3, seed=3)

        whole = lower_bound(make_instance(*instance, **WEIGHTS), max_matrix_bytes=0)
        monkeypatch.setattr(bounds, "CHUNK_BYTES", 1)
        single = lower_bound(make_instance(*instance, **WEIGHTS), max_matrix_bytes=0)

        assert single.value == pytest.approx(whole.value, abs=1e-10)

    def test_two_classes_are_solved_exactly(self):
        """With one pair a handshake closes the gap."""
        for seed in range(5):
            instance = random_instance(2, 4, seed=seed)

            found = lower_bound(make_instance(*instance, **WEIGHTS), rounds=1)

            assert found.value == pytest.approx(
                exhaustive(make_instance(*instance, **WEIGHTS)).objective.total, abs=1e-9
            )

    def test_dual_improves_the_simple_bound_by_most_of_its_gap(self):
        """On weakly coupled classes the dual comes close to the optimum, where the simple bound is far."""
        instance = random_instance(6, 4, seed=4, dim=16)

        optimum = exhaustive(make_instance(*instance, **WEIGHTS)).objective.total
        found = lower_bound(make_instance(*instance, **WEIGHTS))

        assert optimum - found.history[0] > 0.1
        assert optimum - found.value < 0.1 * (optimum - found.history[0])

    def test_coinciding_candidates_without_eps_name_the_key(self):
        """The dual bound refuses log 0."""
        groups, real = random_instance(3, 2)
        groups[2, 1] = groups[0, 1]

        with pytest.raises(NumericsError, match=r"s3\.eps: found 0 while candidates of two classes"):
            lower_bound(make_instance(groups, real, **{**WEIGHTS, "eps": 0.0}))


class TestMatchings:
    @pytest.mark.parametrize("classes", [1, 2, 3, 6, 9])
    def test_every_pair_meets_once_and_no_class_twice_in_a_round(self, classes):
        """The matchings partition all pairs of classes."""
        met = []
        for a, b in bounds._matchings(classes):
            both = a.tolist() + b.tolist()
            assert len(set(both)) == len(both)
            met += zip(a.tolist(), b.tolist(), strict=True)

        assert sorted(met) == list(itertools.combinations(range(classes), 2))


class TestGap:
    def descent(self, classes, groups, normalisation="paper", seed=0):
        """A single descent and its problem."""
        weights = {**WEIGHTS, "normalisation": normalisation}
        problem = make_instance(*random_instance(classes, groups, seed=seed), **weights)
        return select_groups(problem, start="nearest", restarts=1, max_sweeps=50), problem

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [({}, "exhaustive"), ({"limit": 10}, "dual"), ({"limit": 10, "max_matrix_bytes": 0}, "simple")],
        ids=["exhaustive", "dual", "simple"],
    )
    def test_best_affordable_bound_is_reported(self, changes, kind):
        """The bound is the optimum where it can be found, else dual, else simple; the gap is the difference."""
        selection, problem = self.descent(5, 3, "official", seed=6)

        found = gap(selection, problem, **changes)

        assert found["bound_kind"] == kind
        assert found["gap"] == found["objective"] - found["bound"] >= 0
        assert found["objective"] == selection.objective.total
        assert found["closeness"] + found["separation"] == pytest.approx(found["objective"])
        assert found["bound"] <= exhaustive(problem).objective.total + 1e-9

    def test_optimal_selection_has_no_gap(self):
        """One class is solved by its descent, so the gap is exactly 0."""
        assert gap(*self.descent(1, 4))["gap"] == 0
