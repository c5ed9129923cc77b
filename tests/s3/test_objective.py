"""S3's objective (Eq. 10) against arithmetic by hand and double loops, and itself in its other engine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ims3core.base.seeds import generator
from ims3core.s3.objective import evaluate, make_instance, pair_weight
from tests.s3.instances import WEIGHTS, random_instance, slow_objective


class TestObjective:
    def test_value_worked_out_by_hand(self):
        """Three classes of two groups on the axes of space, alpha 0.5, beta 1, eps 0.

        Chosen are groups (0, 1, 0): c = x, y, -x; real are r = (x + y) / sqrt 2, -y, z.
        d(c_0, r_0) = 1 - 1 / sqrt 2, d(c_1, r_1) = 2, d(c_2, r_2) = 1;
        d(c_0, c_1) = 1, d(c_0, c_2) = 2, d(c_1, c_2) = 1.
        closeness = 0.5 (log(1 - 1 / sqrt 2) + log 2 + 0) = 0.5 (-1.2279471773 + 0.6931471806) = -0.2673999984.
        separation, paper: -1 / 2 * 2 (0 + log 2 + 0) = -0.6931471806; official: -1 (0 + log 2 + 0), the same
        because (C - 1) / 2 = 1.
        """
        x, y, z = torch.eye(3)
        groups = torch.stack([torch.stack(pair) for pair in [(x, z), (z, y), (-x, y)]])
        real = torch.stack([(x + y) / 2**0.5, -y, z])

        for normalisation in ("paper", "official"):
            problem = make_instance(groups, real, alpha=0.5, beta=1.0, eps=0.0, normalisation=normalisation)
            found = evaluate(problem, torch.tensor([0, 1, 0]))

            assert found.closeness == pytest.approx(-0.2673999984, abs=1e-7)
            assert found.separation == pytest.approx(-0.6931471806, abs=1e-7)
            assert found.total == found.closeness + found.separation

    @settings(deadline=None, max_examples=60)
    @given(
        classes=st.integers(1, 5),
        seed=st.integers(0, 2**16),
        alpha=st.floats(0, 2),
        beta=st.floats(0, 2),
        eps=st.sampled_from([0.0, 1e-6, 0.1]),
        normalisation=st.sampled_from(["paper", "official"]),
    )
    def test_equals_the_double_loop(self, classes, seed, alpha, beta, eps, normalisation):
        """The vectorised objective is the sum over classes and pairs as the paper writes it."""
        groups, real = random_instance(classes, 3, seed=seed)
        weights = {"alpha": alpha, "beta": beta, "eps": eps, "normalisation": normalisation}
        choice = torch.randint(3, (classes,), generator=generator(seed, "test-choice"))

        found = evaluate(make_instance(groups, real, **weights), choice)

        assert found.total == pytest.approx(slow_objective(groups, real, choice.tolist(), **weights), abs=1e-9)

    @settings(deadline=None, max_examples=30)
    @given(st.permutations(range(5)), st.integers(0, 2**16))
    def test_order_of_classes_does_not_matter(self, order, seed):
        """Classes in another order, with their choices, have the same objective."""
        groups, real = random_instance(5, 3, seed=seed)
        choice = torch.randint(3, (5,), generator=generator(seed, "test-choice"))

        before = evaluate(make_instance(groups, real, **WEIGHTS), choice)
        after = evaluate(make_instance(groups[order], real[order], **WEIGHTS), choice[order])

        assert after.total == pytest.approx(before.total, abs=1e-10)

    @pytest.mark.parametrize(("classes", "factor"), [(2, 0.5), (10, 4.5), (100, 49.5), (1000, 499.5)])
    def test_official_separation_weighs_half_of_c_minus_one_times_the_paper(self, classes, factor):
        """The normalisations differ in one factor on the separation term (D12)."""
        paper = pair_weight(0.9, classes=classes, normalisation="paper")
        official = pair_weight(0.9, classes=classes, normalisation="official")

        assert official / paper == pytest.approx(factor)

    def test_official_objective_differs_from_the_paper_in_that_factor_only(self):
        """At equal weights closeness agrees and separation is (C - 1) / 2 times as large (D12)."""
        groups, real = random_instance(6, 2)
        choice = torch.tensor([0, 1, 1, 0, 1, 0])

        paper, official = (
            evaluate(make_instance(groups, real, **{**WEIGHTS, "normalisation": name}), choice)
            for name in ("paper", "official")
        )

        assert official.closeness == paper.closeness
        assert official.separation == pytest.approx(2.5 * paper.separation)
