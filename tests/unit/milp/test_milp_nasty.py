"""Odd units, weights that are decades apart, and what a solver says of nothing: the same answers, finite and honest."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from milp_cases import assert_honest, job, tiny

from shared.contracts import SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.backends import highs
from solver_service.milp.backends.outcome import MilpOptions
from solver_service.milp.core.control import Control
from solver_service.milp.core.units import Units, scaled, units_of
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.solve import solve
from solver_service.milp.tiers import far_apart

FREE = ("ramp", "hinge", "mae", "mse", "max_error", "outliers", "huber", "quantile", "trimmed_mse", "trimmed_mae")
DEGREE = {"ramp": 0, "hinge": 0, "outliers": 0, "mse": 2, "huber": 2, "trimmed_mse": 2}


def _in_units(snapshot, spec, inputs, scores, samples=0):
    """A snapshot without weights of samples and a spec, with numbers times powers of two."""
    weights = np.ldexp(np.ones(snapshot.samples), samples).astype(np.float32)
    return scaled(replace(snapshot, sample_weight=weights), spec, Units(inputs, scores, 0, 0))


def _small(objective, **fields):
    snapshot, spec = tiny(1, objective, n=4)[0], job(objective, limits={"nodes": 2, "time_s": 60}, **fields)
    return snapshot, spec.model_copy(update={"tolerance": 0.5 if objective == "outliers" else None})


@pytest.mark.parametrize("objective", FREE)
@pytest.mark.parametrize("exponent", [-40, 40])
def test_the_same_job_in_other_units_gives_the_same_weights_up_to_scale(objective, exponent):
    """Units of 1e-12 or 1e12 for inputs and scores change no digit of the result."""
    snapshot, spec = _small(objective)
    plain = solve(snapshot, spec)
    there = solve(*_in_units(snapshot, spec, -exponent, exponent))
    factor = DEGREE.get(objective, 1) * exponent
    np.testing.assert_allclose(np.ldexp(there.weight, -2 * exponent), plain.weight, rtol=1e-5, atol=1e-6)
    assert there.result.status is plain.result.status
    report, other = plain.result.objective, there.result.objective
    assert np.ldexp(other.final, -factor) == pytest.approx(report.final, rel=1e-5, abs=1e-7)
    assert np.ldexp(other.bound, -factor) == pytest.approx(report.bound, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("backend", ["scip", "highs"])
@pytest.mark.parametrize("exponent", [-100, 100])
def test_weights_of_samples_in_any_unit_scale_the_value_alone(backend, exponent):
    """Weights of 1e30 or 1e-30 for all samples: the count is as many times that, and proven."""
    snapshot, spec = tiny(2, "zero_one", n=12)[0], job("zero_one", solver={"backend": backend})
    plain, there = solve(snapshot, spec), solve(*_in_units(snapshot, spec, 0, 0, exponent))
    assert plain.result.status is there.result.status is SolveStatus.OPTIMAL
    assert np.ldexp(there.result.objective.final, -exponent) == plain.result.objective.final


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_decimal_units_give_the_same_value(factor):
    """A factor that float32 has to round changes no more than its last digits."""
    snapshot, spec = tiny(3, "mae", bias=False)
    single = np.float32(factor)
    targets, inputs = snapshot.targets * single, snapshot.inputs * single
    there = solve(replace(snapshot, targets=targets, inputs=inputs), spec)
    plain = solve(snapshot, spec)
    assert there.result.objective.final / factor == pytest.approx(plain.result.objective.final, rel=1e-4)
    assert there.result.status is SolveStatus.OPTIMAL


def test_incumbents_and_a_start_are_in_the_jobs_own_units():
    """What is reported on the way is the value of the weights that come with it; a start is taken as it is."""
    plain, spec = tiny(1, "mae")
    snapshot, spec = _in_units(plain, spec, -30, 20)
    seen = []
    solution = solve(snapshot, spec, Control(seen.append))
    assert seen
    for found in seen:
        assert found.objective == spec.value(snapshot, found.moved.weight, found.moved.bias)
    again = solve(snapshot, spec, start=solution.moved)
    assert again.result.objective.final <= solution.result.objective.final


def test_a_stop_reaches_a_solve_in_other_units():
    """A control that somebody else listens to is stopped with the one that it was made from."""
    control = Control()
    other = control.heard_by(lambda _: None)
    control.stop()
    assert other.stopped


def test_units_that_would_lose_digits_are_not_taken():
    """Weights at the end of float32 stay where they are."""
    snapshot, spec = tiny(1, "zero_one")
    tiny_weights = replace(
        snapshot, weight=snapshot.weight * np.float32(1e-36), inputs=snapshot.inputs * np.float32(1e-30)
    )
    assert units_of(tiny_weights, spec).inputs == 0


def test_whole_weights_in_other_units_are_made_whole_again():
    """Counts of samples that weigh 3 or 5 times 2^40 take whole values in the units that are chosen."""
    snapshot, spec = tiny(1, "zero_one")
    weights = np.ldexp(np.array([3, 5, 3, 5, 3, 5.0]), 40).astype(np.float32)
    units = units_of(replace(snapshot, sample_weight=weights), spec)
    assert units.samples == units.values == -40


def _two_classes(weights, inputs=(-1.0, -0.9, 0.8, 1.0)):
    """Four samples on a line, which one threshold tells apart; the start has all of them wrong."""
    return Snapshot(
        task="binary",
        inputs=np.array(inputs, dtype=np.float32)[:, None],
        targets=np.array([0, 0, 1, 1]),
        weight=np.array([[-1.0]], dtype=np.float32),
        bias=np.array([0.1], dtype=np.float32),
        sample_weight=np.array(weights, dtype=np.float32),
    )


@pytest.mark.parametrize("backend", ["scip", "highs"])
@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge"])
def test_nothing_is_lost_by_weights_that_are_decades_apart(objective, backend):
    """Where every sample can be right, the lightest one is, too, and nothing is left."""
    snapshot = _two_classes([1e30, 1e-30, 1.0, 1e12])
    spec = job(objective, radius=4.0, margin=0.5, solver={"backend": backend})
    solution = solve(snapshot, spec)
    assert far_apart(snapshot)
    assert solution.result.objective.final == 0.0
    assert solution.result.status is SolveStatus.OPTIMAL


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge"])
def test_the_lightest_of_samples_decades_apart_is_the_one_given_up(objective):
    """Of two equal samples of other classes the heavy one is right, and the value is what the light one costs."""
    snapshot = _two_classes([1e30, 1e-20, 1.0, 1e12], inputs=(-1.0, 0.8, 0.8, 1.0))
    spec = job(objective, radius=4.0, margin=0.5)
    solution = solve(snapshot, spec)
    costs = {"zero_one": 1e-20, "ramp": 1e-20, "hinge": 2e-20}
    assert solution.result.objective.final == pytest.approx(costs[objective], rel=1e-3)
    assert solution.result.objective.bound <= solution.result.objective.final


def test_the_lightest_samples_count_under_a_floor_on_the_weight_of_all():
    """Five samples over forty decades of which all can be right, a share of their weight being asked for."""
    snapshot = Snapshot(
        task="classification",
        inputs=np.float32([[-2.08, 21.04], [-9.11, 21.04], [0.1, 21.04], [11.78, 21.04], [22.3, 21.04]]),
        targets=np.array([1, 1, 1, 2, 0]),
        weight=np.float32([[-0.005, -0.005], [0.0273, 0.0273], [-0.0052, -0.0052]]),
        bias=np.float32([0.447, -0.749, 0.047]),
        sample_weight=np.float32([8.6e9, 1.06e-28, 4.25e13, 1.33e12, 6.0e-27]),
    )
    equal, asked = replace(snapshot, sample_weight=None), [{"type": "min_accuracy", "value": 0.2}]
    alone = solve(equal, job("zero_one", radius=0.5, bias_radius=1.0)).result.objective
    solution = solve(snapshot, job("zero_one", radius=0.5, bias_radius=1.0, constraints=asked))
    assert alone.final == solution.result.objective.final == 0.0


def test_a_bound_does_not_grow_by_weights_that_float32_cannot_hold_beside_the_heaviest():
    """The sample that is lost weighs 1e-40 of the heaviest, which float32 cannot say, and counts as little."""
    snapshot = Snapshot(
        task="classification",
        inputs=np.float32([[17346.459], [-11564.306], [28910.764], [-23128.611]]),
        targets=np.array([2, 1, 2, 2]),
        weight=np.float32([[-5.4045613e-05], [2.1618245e-05], [3.2427368e-05]]),
        bias=np.float32([0.5, 0.25, -0.25]),
        sample_weight=np.float32([4.9130296e20, 1.1434165e-19, 4.9484788e-22, 4.4711819e-23]),
    )
    spec = job("ramp", radius=1e-4, bias_radius=1.0, constraints=[{"type": "min_accuracy", "value": 0.75}])
    report = solve(snapshot, spec).result.objective
    assert report.bound <= report.final <= 2e-19


def test_the_worst_of_classes_sees_its_lightest_samples():
    """A sample of 1e-13 of its class is right where it can be."""
    snapshot = _two_classes([1e10, 1e-20, 1e-3, 1e10], inputs=(-1.0, -0.9, 0.8, 1.0))
    snapshot = replace(snapshot, weight=np.float32([[1.0]]), bias=np.float32([0.95]))
    assert solve(snapshot, job("worst_class", radius=4.0)).result.objective.final == 0.0


def test_means_of_weights_that_are_decades_apart_fit_the_heavy_sample_first():
    """One input decides about two samples: the heavy one is met, and the light one costs what it weighs."""
    snapshot = Snapshot(
        task="regression",
        inputs=np.ones((2, 1), dtype=np.float32),
        targets=np.array([[1.5], [0.0]], dtype=np.float32),
        weight=np.array([[0.75]], dtype=np.float32),
        sample_weight=np.array([1e20, 1e-10], dtype=np.float32),
    )
    solution = solve(snapshot, job("mae", radius=1.0))
    assert solution.weight[0, 0] == 1.5
    assert solution.result.objective.final == pytest.approx(1.5e-30, rel=1e-3)


def test_constraints_that_nothing_keeps_are_infeasible_with_weights_decades_apart():
    """Both of two equal samples of other classes cannot be right; the snapshot's own weights come back."""
    snapshot = _two_classes([1e-20, 1e30, 1.0, 1e-12], inputs=(-1.0, 0.8, 0.8, 1.0))
    spec = job("hinge", radius=4.0, time_s=3, constraints=[{"type": "recall_floor", "value": 1.0}])
    solution = solve(snapshot, spec)
    assert solution.result.status is SolveStatus.INFEASIBLE
    assert (solution.weight == snapshot.weight).all()
    assert np.isfinite(solution.result.objective.final)


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_zeros_of_an_infeasible_model_are_no_solution(backend):
    """A grid whose multiples in the box break a floor: weights of 0, outside the box, are not handed out."""
    snapshot = Snapshot(
        task="binary",
        inputs=np.array([[-0.24], [-0.37], [0.67], [-0.69]], dtype=np.float32),
        targets=np.array([0, 0, 0, 1]),
        weight=np.array([[0.555]], dtype=np.float32),
        bias=np.array([-0.105], dtype=np.float32),
        radius=np.array([[0.2]], dtype=np.float32),
    )
    asked = [{"type": "precision_floor", "value": 1.0, "classes": [1]}, {"type": "levels", "levels": [0.0, 0.55]}]
    spec = job("hinge", radius=None, time_s=2, constraints=asked, solver={"backend": backend})
    solution = solve(snapshot, spec)
    assert np.abs(solution.weight - snapshot.weight).max() <= 0.2


def test_a_block_in_other_units_is_as_good():
    """Inputs of a hidden block times 1e12 and its weights by 1e-12: the same value."""
    rng = np.random.default_rng(0)
    snapshot = Snapshot.from_lists(
        task="regression",
        activation="relu",
        tail=["identity"],
        note={},
        tensors={
            "inputs": rng.normal(size=(5, 2)).tolist(),
            "targets": rng.normal(size=(5, 1)).tolist(),
            "weight": rng.normal(size=(2, 2)).tolist(),
            "tail.0.weight": rng.normal(size=(1, 2)).tolist(),
        },
    )
    spec = job("mae", radius=0.3)
    plain, there = solve(snapshot, spec), solve(*_in_units(snapshot, spec, 40, 0))
    assert_honest(*_in_units(snapshot, spec, 40, 0), there)
    assert there.result.objective.final == pytest.approx(plain.result.objective.final, rel=1e-5)


def test_highs_does_not_pass_a_start_off_as_the_optimum():
    """A binary that no row speaks of is 1 in the start; HiGHS's presolve takes it out, and would hand it back as 1."""
    rows = [
        [-0.16928028, -0.64578344, 0.86104459, 1.4887083, 0.0, 0.0, 0.0],
        [0.16928028, 0.64578344, -0.86104459, 0.0, 0.0, 1.3637083, 0.0],
        [0.0, 0.0, -0.86104459, 0.0, 0.0, 0.0, 1.36114459],
    ]
    model = LinearModel(
        objective=np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
        constant=0.0,
        matrix=sp.csr_array(np.array(rows)),
        row_lower=np.array([-0.1874, -0.3124, -0.3124 - 0.1877]),
        row_upper=np.full(3, np.inf),
        lower=np.array([-1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0]),
        upper=np.ones(7),
        integer=np.arange(7) > 2,
        change_columns=7,
        indicator=np.full(3, -1),
    )
    found = []
    start = np.array([0.999999911973435, -0.7494467473228275, -0.5819675450478062, 0.0, 1.0, 0.0, 0.0])
    outcome = highs.solve(model, MilpOptions(10.0, 2000), Control(), lambda *one: found.append(one[0]), start)
    assert outcome.bound == pytest.approx(float(model.objective @ found[-1]), abs=1e-6)


def test_a_price_far_above_what_samples_weigh_is_solved():
    """Movement costs 1e30 times what samples can gain by it; nothing moves, and every number is finite."""
    snapshot = replace(_two_classes([1, 1, 1, 1]), sample_weight=np.full(4, 1e-30, dtype=np.float32))
    spec = job("ramp", radius=1.0, time_s=3, constraints=[{"type": "movement_cost", "value": 1.0}])
    solution = solve(snapshot, spec)
    assert np.isfinite(solution.result.objective.final)
    assert (solution.weight == snapshot.weight).all()


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_under_constraints_room_beside_the_line_is_as_large_as_the_scores_ask_for(backend):
    """Scores of 1e10 whose class can be had for a price: the solver's optimum survives float32 and is proven."""
    snapshot = Snapshot(
        task="classification",
        inputs=np.array([[0.01020413, -0.0084266]], dtype=np.float32),
        targets=np.array([0]),
        weight=np.array([[-2.9496495e11, 7.0468403e11], [1.5368027e11, -9.5843661e11]], dtype=np.float32),
        bias=None,
    )
    price = {"type": "movement_cost", "value": 8.4e-14, "indices": [0]}
    spec = job("worst_class", radius=1e12, constraints=[price], solver={"backend": backend})
    result = solve(snapshot, spec).result
    assert result.objective.start == 1.0
    assert result.objective.final < 0.2
    assert result.status is SolveStatus.OPTIMAL


@pytest.mark.parametrize("seed", range(8))
def test_what_a_heavy_sample_loses_by_rounding_is_not_paid_for_by_light_ones(seed):
    """A sample a million times heavier than the next is met with room, as each 1e-8 that it misses would count."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(0.5, 1.0, (3, 2)).astype(np.float32)
    inputs[1] = inputs[0]
    snapshot = Snapshot(
        task="multilabel",
        inputs=inputs,
        targets=np.array([[1, 1], [0, 1], [0, 0]]),
        sample_weight=np.array([1e17, 30.0, 1e11], dtype=np.float32),
        weight=rng.uniform(-0.3, 0.3, (2, 2)).astype(np.float32),
        bias=rng.uniform(-0.3, 0.3, 2).astype(np.float32),
    )
    report = solve(snapshot, job("hinge", radius=0.3, margin=0.2)).result.objective
    assert report.final <= report.bound * (1 + 1e-3)


@pytest.mark.parametrize("objective", ["log_loss", "hinge", "ramp", "zero_one", "mae"])
@pytest.mark.parametrize("seed", [2, 8, 20, 22, 25, 55])
def test_inputs_too_large_for_weights_of_the_size_of_the_box(seed, objective):
    """Inputs of 1e9 and a radius of 1: no worse than the same job with inputs near to 1 and a box of 1e6.

    All good weights are within 1e-6 of 0, where solvers' tolerances, relative to the box, and float32's neighbours of
    weights near to 1 tell none from the other.
    """
    rng = np.random.default_rng(seed)
    inputs, values = rng.normal(size=(9, 3)), rng.normal(size=(9, 3)).astype(np.float32)
    snapshot = Snapshot(
        task="regression" if objective == "mae" else "classification",
        inputs=(1e9 * inputs).astype(np.float32),
        targets=values if objective == "mae" else np.arange(9) % 3,
        weight=rng.uniform(-0.5, 0.5, (3, 3)).astype(np.float32),
        bias=np.zeros(3, dtype=np.float32),
    )
    near = replace(snapshot, inputs=inputs.astype(np.float32), weight=np.zeros((3, 3), dtype=np.float32))
    limits = {"nodes": 1000, "time_s": 60}
    result = solve(snapshot, job(objective, radius=1.0, limits=limits)).result
    other = solve(near, job(objective, radius=1e3, bias_radius=1.0, limits=limits)).result
    assert result.objective.final <= other.objective.final * 1.001 + 1e-6
    assert result.status is not SolveStatus.OPTIMAL or result.objective.gap < 1e-3


@pytest.mark.parametrize("least", [0.25, 0.5])
def test_a_box_without_0_is_searched_as_it_is(least):
    """No smaller box is inside the job's where its weights keep away from 0."""
    rng = np.random.default_rng(0)
    snapshot = Snapshot(
        task="classification",
        inputs=(1e9 * rng.normal(size=(9, 3))).astype(np.float32),
        targets=np.arange(9) % 3,
        weight=np.full((3, 3), 2 * least, dtype=np.float32),
        bias=np.zeros(3, dtype=np.float32),
    )
    solution = solve(snapshot, job("hinge", radius=least, limits={"nodes": 10, "time_s": 60}))
    assert np.abs(solution.weight - snapshot.weight).max() <= least
    assert_honest(snapshot, job("hinge", radius=least), solution)


@pytest.mark.parametrize("light", [1e-7, 1e-8])
def test_light_samples_beside_heavy_ones_are_not_taken_for_nothing(light):
    """A solver's tolerance is a millionth: what weighs less is solved for by itself, before `optimal` is said."""
    snapshot = Snapshot(
        task="binary",
        inputs=np.array([[1.0], [2.0], [-1.5]], dtype=np.float32),
        targets=np.array([1, 0, 0]),
        sample_weight=np.array([light, 0.5, 2 * light], dtype=np.float32),
        weight=np.array([[0.8]], dtype=np.float32),
        bias=np.array([0.5], dtype=np.float32),
    )
    for objective in ("zero_one", "ramp"):
        report = solve(snapshot, job(objective, radius=3.0, margin=0.01)).result.objective
        assert report.final <= light * 1.001  # one of the two light ones has to be given up, the lighter
