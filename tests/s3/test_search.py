"""S3's search against brute force, and itself in its other engine."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ims3core.base.seeds import generator
from ims3core.errors import DataError, NumericsError, ParameterError
from ims3core.s3 import search as s3
from ims3core.s3.objective import evaluate, make_instance
from ims3core.s3.search import GroupChoice, select_groups
from tests.s3.instances import BLOCKWISE, WEIGHTS, random_instance, slow_objective


def search(groups: Tensor, real: Tensor, **changes) -> GroupChoice:
    """``select_groups`` with plain settings, except for ``changes``."""
    weights = {key: changes.pop(key, value) for key, value in WEIGHTS.items()}
    plain = {"start": "nearest", "restarts": 1, "max_sweeps": 50, "generator": generator(0, "starts")}
    return select_groups(make_instance(groups, real, **weights), **plain | changes)


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
