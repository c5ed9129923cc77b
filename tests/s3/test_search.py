"""S3 against arithmetic by hand, double loops, brute force, and itself in its other engine."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.base.seeds import generator
from ims3core.errors import DataError, NumericsError, ParameterError
from ims3core.s3 import search as s3
from ims3core.s3.objective import evaluate, make_instance, pair_weight
from ims3core.s3.search import GroupChoice, select_groups

WEIGHTS = {"alpha": 0.4, "beta": 0.9, "eps": 1e-6, "normalisation": "paper"}
BLOCKWISE = 0  # max_matrix_bytes that no matrix fits


def random_instance(classes: int, groups: int, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Group centroids scattered around real centroids that are themselves close to each other."""
    noise = generator(seed, "test-s3", classes, groups, dim)
    real = normalize(1 + torch.randn(classes, dim, generator=noise), dim=-1)
    scatter = torch.randn(classes, groups, dim, generator=noise)
    return normalize(real[:, None] + 0.7 * scatter, dim=-1), real


def slow_objective(groups, real, choice, *, alpha, beta, eps, normalisation) -> float:
    """Eq. 10 as written, one logarithm at a time."""
    chosen = [groups[i, g].double() for i, g in enumerate(choice)]
    classes = len(chosen)

    def log_d(u: Tensor, v: Tensor) -> float:
        cosine = (u @ v / (u.norm() * v.norm())).item()
        return math.log(1 - max(-1.0, min(1.0, cosine)) + eps)

    closeness = sum(log_d(chosen[i], real[i].double()) for i in range(classes))
    if classes == 1:
        return alpha * closeness
    if normalisation == "paper":
        ordered = sum(log_d(chosen[i], chosen[j]) for i in range(classes) for j in range(classes) if i != j)
        return alpha * closeness - beta / (classes - 1) * ordered
    return alpha * closeness - beta * sum(log_d(chosen[i], chosen[j]) for j in range(classes) for i in range(j))


def search(groups: Tensor, real: Tensor, **changes) -> GroupChoice:
    """``select_groups`` with plain settings, except for ``changes``."""
    weights = {key: changes.pop(key, value) for key, value in WEIGHTS.items()}
    plain = {"start": "nearest", "restarts": 1, "max_sweeps": 50, "generator": generator(0, "starts")}
    return select_groups(make_instance(groups, real, **weights), **plain | changes)


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


class TestSearch:
    def test_choice_worked_out_by_hand(self):
        """Three classes of two groups, alpha = beta = 1, 'paper', so that a pair weighs 2 / (3 - 1) = 1.

        Unit vectors in the plane, by angle: r = 0, 90, 180 degrees. Groups: class 0 at 10 and 350, class 1 at 80
        and 110, class 2 at 190 only (both groups). With L(a) = log(1 - cos a): L(10) = -4.18697, L(20) = -2.80830,
        L(70) = -0.41858, L(80) = -0.19073, L(90) = 0, L(110) = 0.29418, L(120) = 0.40547, L(160) = 0.66253,
        L(180) = 0.69315. To the real centroid it is L(10) for every group but class 1's second, L(20).
        Start: both groups of class 0 are nearest, the tie goes to group 0; class 1 takes group 0: (0, 0, 0), with
        the objective 3 L(10) - L(70) - L(180) - L(110) = -13.12966.
        Class 0: group 0 at 10: L(10) - L(70) - L(180) = -4.46154;
                 group 1 at 350: L(10) - L(90) - L(160) = -4.84950, better: move to 1.
        Class 1: group 0 at 80: L(10) - L(90) - L(110) = -4.48115;
                 group 1 at 110: L(20) - L(120) - L(80) = -3.02304: stay at 0.
        Class 2: both groups tie: stay at 0. Every class has now kept its group since the only move.
        Objective: 3 L(10) - L(90) - L(160) - L(110) = -12.56091 - 0 - 0.66253 - 0.29418 = -13.51762.
        """
        degrees = torch.tensor([[10.0, 350.0], [80.0, 110.0], [190.0, 190.0]], dtype=torch.float64)
        groups = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=-1)
        real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)

        found = search(groups, real, alpha=1.0, beta=1.0, eps=0.0)

        assert found.choice.tolist() == [1, 0, 0]
        assert found.objective.total == pytest.approx(-13.51762, abs=3e-5)
        assert found.start_objectives[0] == pytest.approx(-13.12966, abs=3e-5)
        assert (found.sweeps, found.converged) == (1, True)

    @settings(deadline=None, max_examples=50)
    @given(
        classes=st.integers(1, 8),
        groups=st.integers(1, 6),
        dim=st.integers(2, 9),
        seed=st.integers(0, 2**16),
        start=st.sampled_from(["nearest", "random"]),
        normalisation=st.sampled_from(["paper", "official"]),
    )
    def test_engines_agree_bit_for_bit(self, classes, groups, dim, seed, start, normalisation):
        """The whole matrix and the blocks on the fly give the same choice, sweeps and objectives."""
        instance = random_instance(classes, groups, dim, seed)

        whole, blocks = (
            search(
                *instance,
                start=start,
                normalisation=normalisation,
                restarts=3,
                max_matrix_bytes=limit,
                generator=generator(seed, "starts"),
            )
            for limit in (2**20, BLOCKWISE)
        )

        assert (whole.engine, blocks.engine) == ("matrix", "blockwise")
        assert whole.choice.tolist() == blocks.choice.tolist()
        assert whole.end_objectives == blocks.end_objectives
        assert (whole.sweeps, whole.converged) == (blocks.sweeps, blocks.converged)

    @pytest.mark.parametrize("engine", [s3._Blockwise, s3._Matrix])
    def test_sums_brought_up_to_date_equal_sums_made_anew(self, engine):
        """After any moves, of one class or of many, of the visited class too, and back again."""
        groups, real = random_instance(24, 5, 7, 0)
        problem = make_instance(groups, real, **WEIGHTS)
        engine, choice, rng = engine(problem), torch.zeros(24, dtype=torch.long), generator(0, "moves")
        engine.start(choice)
        sums, updates, some = s3._Sums(problem, engine), 0, engine.some

        def counted(*arguments):
            nonlocal updates
            updates += 1
            return some(*arguments)

        engine.some = counted
        for burst in [0, 1, 3, 40, 2, 0, 5, 24, 1]:
            for _ in range(burst):
                i, g = torch.randint(24, (), generator=rng).item(), torch.randint(5, (), generator=rng).item()
                sums.moves.append((i, int(choice[i]), g))
                choice[i] = g
                engine.move(i, g)
            for i in torch.randperm(24, generator=rng)[:9].tolist():
                torch.testing.assert_close(sums.visit(i), engine.row(i).sum(1), rtol=0, atol=1e-11)
        assert updates > 20

    @pytest.mark.parametrize("dim", [33, 64])
    def test_engines_agree_at_sizes_that_use_other_matrix_kernels(self, dim):
        """Agreement holds for 60 classes of 11 groups too."""
        for seed in range(2):
            instance = random_instance(60, 11, dim, seed)

            whole, blocks = (
                search(
                    *instance,
                    start="random",
                    normalisation="official",
                    max_matrix_bytes=limit,
                    generator=generator(seed, "starts"),
                )
                for limit in (2**22, BLOCKWISE)
            )

            assert (whole.engine, blocks.engine) == ("matrix", "blockwise")
            assert whole.choice.tolist() == blocks.choice.tolist()
            assert whole.sweeps == blocks.sweeps

    @settings(deadline=None, max_examples=40)
    @given(
        classes=st.integers(1, 6),
        groups=st.integers(2, 5),
        seed=st.integers(0, 2**16),
        normalisation=st.sampled_from(["paper", "official"]),
        limit=st.sampled_from([BLOCKWISE, 2**20]),
    )
    def test_no_single_change_improves_a_converged_choice(self, classes, groups, seed, normalisation, limit):
        """A converged choice is a local optimum of the objective as the paper writes it."""
        instance = random_instance(classes, groups, seed=seed)
        weights = {**WEIGHTS, "normalisation": normalisation}

        found = search(*instance, normalisation=normalisation, max_matrix_bytes=limit)

        assert found.converged
        base = found.choice.tolist()
        assert found.objective.total == pytest.approx(slow_objective(*instance, base, **weights), abs=1e-9)
        for i, g in itertools.product(range(classes), range(groups)):
            changed = [*base[:i], g, *base[i + 1 :]]
            assert slow_objective(*instance, changed, **weights) >= found.objective.total - 1e-8

    @pytest.mark.parametrize("normalisation", ["paper", "official"])
    def test_many_restarts_reach_brute_force_and_never_beat_it(self, normalisation):
        """On small instances the best of 30 descents is the best of all choices."""
        weights = {**WEIGHTS, "normalisation": normalisation}
        for seed in range(6):
            instance = random_instance(4, 3, seed=seed)
            values = [slow_objective(*instance, c, **weights) for c in itertools.product(range(3), repeat=4)]

            one = search(*instance, normalisation=normalisation)
            many = search(*instance, normalisation=normalisation, restarts=30)

            assert one.objective.total >= min(values) - 1e-9
            assert many.objective.total == pytest.approx(min(values), abs=1e-9)

    def test_a_sweep_never_raises_the_objective(self):
        """More sweeps never end above fewer, and none ends above the start."""
        instance = random_instance(40, 6, seed=3)

        ends = [
            search(*instance, start="random", normalisation="official", max_sweeps=n, generator=generator(1, "starts"))
            for n in range(1, 8)
        ]

        values = [ends[0].start_objectives[0], *(end.objective.total for end in ends)]
        assert all(later <= earlier for earlier, later in itertools.pairwise(values))
        assert not ends[0].converged
        assert ends[-1].converged
        assert values[-1] < values[1]

    def test_restarts_keep_the_best_descent(self):
        """The first start is as asked for, the others are random, and the lowest end is returned."""
        instance = random_instance(10, 5, seed=5)

        one = search(*instance, normalisation="official")
        many = search(*instance, normalisation="official", restarts=6)

        assert many.start_objectives[0] == one.start_objectives[0]
        assert many.end_objectives[0] == one.objective.total
        assert len(set(many.start_objectives)) == len(many.end_objectives) == 6
        assert many.objective.total == min(many.end_objectives)

    def test_nearest_start_is_the_group_nearest_to_the_real_centroid(self):
        """With beta 0 the choice is per class the group of largest cosine to the real centroid."""
        groups, real = random_instance(7, 5, seed=1)

        found = search(groups, real, beta=0.0)

        assert found.choice.tolist() == torch.einsum("cgd,cd->cg", groups, real).argmax(1).tolist()
        assert found.objective.total == found.start_objectives[0] == found.objective.closeness

    def test_random_start_is_that_of_its_generator(self):
        """The same generator gives the same descent, another one another start."""
        instance = random_instance(10, 5)

        same, again, other = (
            search(*instance, start="random", generator=generator(seed, "starts")) for seed in (0, 0, 1)
        )

        assert same.start_objectives == again.start_objectives
        assert same.start_objectives != other.start_objectives

    @pytest.mark.parametrize("limit", [BLOCKWISE, 2**20], ids=["blockwise", "matrix"])
    def test_equal_groups_go_to_the_lowest_index(self, limit):
        """Copies of one candidate tie exactly, so every class keeps group 0."""
        groups, real = random_instance(6, 1, dim=7, seed=2)

        found = search(groups.expand(6, 9, 7), real, max_matrix_bytes=limit)

        assert found.choice.tolist() == [0] * 6

    def test_descent_moves_to_the_lowest_of_equal_better_groups_and_stays_on_a_tie(self):
        """Of two copies of a better candidate the first is taken, unless the start was the second."""
        real = torch.tensor([[1.0, 0.0]])
        groups = torch.tensor([[[0.0, 1.0], [1.0, 0.1], [1.0, 0.1]]])
        seen = set()

        for seed in range(12):
            begun = int(torch.randint(3, (1,), generator=generator(seed, "starts")))
            ended = int(search(groups, real, start="random", generator=generator(seed, "starts")).choice)
            seen.add((begun, ended))

        assert seen == {(0, 1), (1, 1), (2, 2)}

    def test_single_class_takes_its_nearest_group(self):
        """One class has no separation term and works in both normalisations."""
        groups, real = random_instance(1, 4, seed=4)

        for normalisation in ("paper", "official"):
            found = search(groups, real, normalisation=normalisation)

            assert found.objective.separation == 0
            assert found.choice.tolist() == [int((groups[0] @ real[0]).argmax())]

    def test_inputs_are_left_alone(self):
        """The search writes into neither argument, whatever their dtype."""
        groups, real = (part.double() for part in random_instance(4, 3))
        kept = groups.clone(), real.clone()

        search(groups, real, max_matrix_bytes=BLOCKWISE)

        assert torch.equal(groups, kept[0])
        assert torch.equal(real, kept[1])


class TestErrors:
    @pytest.mark.parametrize("limit", [BLOCKWISE, 2**20], ids=["blockwise", "matrix"])
    @pytest.mark.parametrize("eps", [0.0, 1e-20])
    def test_coinciding_classes_without_eps_name_the_key(self, limit, eps):
        """A candidate equal to another class's chosen centroid is log 0 unless eps changes the distance."""
        groups, real = random_instance(3, 2, seed=1)
        start = search(groups, real, beta=0.0).choice
        groups[2, 1 - start[2]] = groups[0, start[0]]
        groups[0, 1 - start[0]] = -real[0]

        with pytest.raises(NumericsError, match=r"s3\.eps: found (0|1e-20) while .* coincide .* wanted eps above 0"):
            search(groups, real, eps=eps, beta=1e-9, max_matrix_bytes=limit)
        assert math.isfinite(search(groups, real, eps=1e-6, max_matrix_bytes=limit).objective.total)

    def test_chosen_centroids_that_coincide_without_eps_name_the_key(self):
        """The objective itself refuses log 0."""
        groups, real = random_instance(2, 1)
        groups[1] = groups[0]

        with pytest.raises(NumericsError, match=r"s3\.eps: .*chosen centroids of two classes"):
            search(groups, real, eps=0.0)

    def test_group_equal_to_the_real_centroid_without_eps_names_the_key(self):
        """A group at distance 0 from its real centroid is log 0 unless eps is positive."""
        groups, real = random_instance(3, 2)
        groups[1, 1] = real[1]

        with pytest.raises(NumericsError, match=r"s3\.eps: found 0 while a group centroid and the real centroid"):
            search(groups, real, eps=0.0)
        assert search(groups, real, beta=0.0).choice[1] == 1

    def test_evaluating_a_choice_at_its_real_centroid_without_eps_names_the_key(self):
        """The closeness term of a given choice refuses log 0 as well."""
        groups, real = random_instance(2, 2)
        groups[0, 0] = real[0]
        problem = make_instance(groups, real, **{**WEIGHTS, "eps": 0.0})

        with pytest.raises(NumericsError, match=r"s3\.eps: found 0 while a chosen centroid and the real centroid"):
            evaluate(problem, torch.tensor([0, 0]))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"normalisation": "mean"}, "s3.normalisation: found 'mean', wanted 'paper' or 'official'"),
            ({"start": "best"}, "s3.start: found 'best', wanted 'nearest' or 'random'"),
            ({"restarts": 0}, "s3.restarts, s3.max_sweeps: found 0 and 50"),
            ({"max_sweeps": 0}, "s3.restarts, s3.max_sweeps: found 1 and 0"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_impossible_parameter_is_named(self, changes, message):
        """A parameter that cannot be is an error that names it."""
        with pytest.raises(ParameterError, match=message):
            search(*random_instance(3, 2), **changes)

    @pytest.mark.parametrize("shape", [(3, 4), (4, 5), (4,)], ids=["dim", "classes", "rank"])
    def test_shapes_that_disagree_are_an_error(self, shape):
        """Group and real centroids must agree in classes and dimension."""
        with pytest.raises(DataError, match=r"found shapes \(3, 2, 5\) and .*wanted \(classes, groups, dim\)"):
            search(torch.ones(3, 2, 5), torch.ones(*shape))
