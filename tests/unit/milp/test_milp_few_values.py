"""Grids, levels and numbers of nonzeros: no worse than what a script of straight-through steps or thresholds finds."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from benchmarks.few_values import Script
from shared.constraints import violations
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Problem, problem_of
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.final_layer.convex.splicing import Splicing
from solver_service.milp.final_layer.convex.stand_in import StandIn
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.heuristics.descents.annealed_each import AnnealedEach
from solver_service.milp.heuristics.descents.few_values import FewValues
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.solve import solve

LEVELS = {"type": "levels", "levels": [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]}
GRID = {"type": "grid", "value": 0.25}
SPARSE = {"type": "max_nonzero", "value": 12}


def classes(seed: int, *, samples: int = 400, width: int = 12, number: int = 4) -> Snapshot:
    """Classes with wrong labels among them, and a start that has learnt nothing."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(number, width)) * (rng.random((number, width)) < 0.4)
    inputs = rng.normal(size=(samples, width)).astype(np.float32)
    targets = (inputs @ truth.T + 0.3 * rng.normal(size=(samples, number))).argmax(axis=1)
    wrong = rng.random(samples) < 0.15
    targets[wrong] = rng.integers(0, number, int(wrong.sum()))
    return Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets.astype(np.int64),
        weight=(0.1 * rng.normal(size=(number, width))).astype(np.float32),
        bias=np.zeros(number, dtype=np.float32),
    )


def values(seed: int, *, samples: int = 300, width: int = 60, rows: int = 1) -> Snapshot:
    """Columns that say nearly the same, of which few matter."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(samples, 6))
    inputs = common[:, rng.integers(0, 6, width)] + 0.4 * rng.normal(size=(samples, width))
    truth = np.where(rng.random((rows, width)) < 0.15, rng.normal(size=(rows, width)), 0.0)
    targets = inputs @ truth.T + 0.5 * rng.normal(size=(samples, rows))
    return Snapshot(
        task="regression",
        inputs=inputs.astype(np.float32),
        targets=targets.astype(np.float32),
        weight=(0.02 * rng.normal(size=(rows, width))).astype(np.float32),
        bias=np.zeros(rows, dtype=np.float32),
    )


def spec_of(objective: str, constraint: dict[str, Any], **more: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"objective": objective, "radius": 2.0, "constraints": [constraint]}
        | {"limits": {"nodes": 5, "time_s": 60}}
        | more
    )


def script(snapshot: Snapshot, spec: JobSpec) -> float:
    """The best value of four restarts and 1,500 moves of the rival of `benchmarks/few_values.py`."""
    rival = Script(snapshot, spec, np.random.default_rng(0))
    for number in range(4):
        rival.restart(number, lambda: False)
    for _ in range(1500):
        rival.move()
    return rival.best[0]


@pytest.mark.parametrize("constraint", [LEVELS, GRID, SPARSE], ids=["levels", "grid", "max_nonzero"])
@pytest.mark.parametrize("objective", ["zero_one", "ramp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_searches_are_no_worse_than_straight_through_steps_thresholds_and_swaps(seed, objective, constraint):
    """Within what two local searches differ by on problems as small as these; on larger ones they are far ahead."""
    snapshot, spec = classes(seed), spec_of(objective, constraint)
    problem, control = problem_of(snapshot, spec), Control()
    incumbents = Incumbents(problem, control)
    Improver(problem, spec, control, incumbents).run(Budget(control, 60.0, 8))
    assert incumbents.feasible
    assert not violations(spec.constraints, snapshot, incumbents.best.weight, incumbents.best.bias)
    assert incumbents.best.objective <= 1.05 * script(snapshot, spec)


@pytest.mark.parametrize("objective", ["mse", "huber"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_job_is_no_worse_than_orthogonal_matching_pursuit(seed, objective):
    """Where columns say the same, what is largest without zeros is no guide to what may stay."""
    snapshot, spec = values(seed), spec_of(objective, {"type": "max_nonzero", "value": 6}, radius=5.0)
    inputs, targets = snapshot.inputs.astype(np.float64), snapshot.targets[:, 0].astype(np.float64)
    support: list[int] = []
    residual = targets - targets.mean()
    for _ in range(6):
        support.append(int(np.abs(inputs.T @ residual / np.linalg.norm(inputs, axis=0)).argmax()))
        columns = np.column_stack([inputs[:, support], np.ones(len(inputs))])
        fitted = np.linalg.lstsq(columns, targets, rcond=None)[0]
        residual = targets - columns @ fitted
    weight = np.zeros_like(snapshot.weight)
    weight[0, support] = fitted[:-1]
    pursued = spec.value(snapshot, weight, np.array([fitted[-1]], dtype=np.float32))
    assert solve(snapshot, spec).result.objective.final <= pursued * (1 + 1e-6)


# --- the parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", [LEVELS, GRID], ids=["levels", "grid"])
def test_settled_changes_are_the_nearest_allowed_ones(constraint):
    problem = problem_of(classes(3), spec_of("ramp", constraint))
    few = FewValues.of(problem)
    assert few is not None
    assert few.stepped
    change = np.random.default_rng(0).uniform(-1, 1, problem.radius.shape)
    weight = (problem.center + problem.radius * few.settled(change))[:, :-1]
    np.testing.assert_allclose(weight, _allowed(problem, constraint, change), atol=1e-6)


def _allowed(problem: Problem, constraint: dict[str, Any], change: np.ndarray) -> np.ndarray:
    weight = (problem.center + problem.radius * change)[:, :-1]
    every = np.array(constraint.get("levels", np.arange(-12, 13) * 0.25))
    apart = np.abs(weight[..., None] - every)
    apart[np.abs(every - problem.center[:, :-1, None]) > problem.radius[:, :-1, None]] = np.inf
    return every[apart.argmin(axis=-1)]


def test_thinned_changes_have_no_more_nonzeros_and_keep_what_moves_scores():
    problem = problem_of(classes(3), spec_of("ramp", SPARSE))
    few = FewValues.of(problem)
    assert few is not None
    assert not few.stepped
    change = np.random.default_rng(0).uniform(-1, 1, problem.radius.shape)
    for spared, most in ((1.0, 48), (0.5, 30), (0.0, 12)):
        weight = (problem.center + problem.radius * few.thinned(change, spared))[:, :-1]
        assert np.count_nonzero(np.abs(weight) > 1e-9) == most


@pytest.mark.parametrize("objective", ["zero_one", "ramp"])
@pytest.mark.parametrize("seed", range(3))
def test_a_walk_never_has_more_nonzeros_than_are_asked_for(seed, objective):
    """Where fewer are used than may be, several that move at once could be too many together."""
    problem = problem_of(classes(seed), spec_of(objective, SPARSE))
    walk = Walk(problem, Tally.of(problem), np.random.default_rng(seed))
    walk.goto(np.divide(-problem.center, problem.radius))
    before = walk.rank.value
    for _ in range(300):
        walk.random_step()
        weight = (problem.center + problem.radius * walk.change)[:, :-1]
        assert np.count_nonzero(np.abs(weight) > 1e-9) <= 12
        np.testing.assert_allclose(walk.scores, problem.scores_at(walk.change), atol=1e-9)
    assert walk.rank.value < before


@pytest.mark.parametrize("constraint", [LEVELS, GRID], ids=["levels", "grid"])
def test_a_walk_stays_on_levels_and_grids(constraint):
    problem = problem_of(classes(1), spec_of("zero_one", constraint))
    walk = Walk(problem, Tally.of(problem), np.random.default_rng(0))
    for _ in range(300):
        walk.random_step()
    weight = (problem.center + problem.radius * walk.change)[:, :-1]
    np.testing.assert_allclose(weight, _allowed(problem, constraint, walk.change), atol=1e-6)
    np.testing.assert_allclose(walk.scores, problem.scores_at(walk.change), atol=1e-9)


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "outliers"])
def test_slopes_of_every_output_are_those_of_differences(objective):
    rng = np.random.default_rng(0)
    task = "regression" if objective == "outliers" else "multilabel"
    targets = rng.normal(size=(40, 3)) if task == "regression" else rng.integers(0, 2, (40, 3))
    snapshot = Snapshot(
        task=task,
        inputs=rng.normal(size=(40, 4)).astype(np.float32),
        targets=targets.astype(np.float32 if task == "regression" else np.int64),
        weight=rng.normal(size=(3, 4)).astype(np.float32),
        sample_weight=rng.uniform(0.5, 2.0, 40).astype(np.float32),
    )
    spec = JobSpec(objective=objective, radius=1.0, tolerance=0.5 if task == "regression" else None)
    problem = problem_of(snapshot, spec)
    each, start = AnnealedEach.of(problem, 0.7), problem.scores / 0.7
    _, slope, lack = each(start.astype(np.float32), 0.6, np.zeros(0), 1.0)
    assert lack.size == 0
    for _ in range(5):
        step = rng.normal(size=start.shape)
        low, high = (each((start + far * step).astype(np.float32), 0.6, np.zeros(0), 1.0)[0] for far in (-1e-3, 1e-3))
        assert float((slope * step).sum()) == pytest.approx((high - low) / 2e-3, rel=2e-2, abs=2e-4)


def test_a_program_over_some_columns_is_the_whole_one_with_the_others_at_0():
    problem = problem_of(values(0), spec_of("mse", SPARSE))
    program, columns = ConvexProgram(problem), np.array([1, 5, 8, 60])
    zero = np.divide(-problem.center, problem.radius)
    change = zero.copy()
    change[:, columns] = np.random.default_rng(0).uniform(-1, 1, (1, 4))
    few = program.of_columns(columns, problem.scores_at(zero))
    value, slope = program.smooth(change)
    found, some = few.smooth(change[:, columns])
    assert found == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(some, slope[:, columns], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_splicing_finds_the_best_support_of_small_problems(seed):
    """Against all supports of three out of nine."""
    snapshot = values(seed, samples=80, width=9)
    problem = problem_of(snapshot, spec_of("mse", {"type": "max_nonzero", "value": 3}))
    incumbents, program = Incumbents(problem, Control()), ConvexProgram(problem)
    every = np.ones((1, 9), dtype=bool)
    search = Splicing(program, incumbents, [(every, 3)], program.box, np.random.default_rng(0), lambda: False)
    search.run(incumbents.whole_change)
    inputs = np.column_stack([snapshot.inputs, np.ones(80)]).astype(np.float64)
    fits = (
        np.linalg.lstsq(inputs[:, [*chosen, 9]], snapshot.targets.astype(np.float64), rcond=None)[1][0] / 80
        for chosen in combinations(range(9), 3)
    )
    assert incumbents.best.objective == pytest.approx(min(fits), rel=1e-4)


@pytest.mark.parametrize("objective", ["mse", "mae"])
def test_splicing_knows_what_cannot_move(objective):
    """Biases of a radius of 0, and weights that are held away from 0: programs over some columns have their scores."""
    snapshot = values(1, samples=80, width=9, rows=2)
    radius = np.full((2, 9), 3.0, dtype=np.float32)
    radius[0, 2], radius[1, 5] = 0.0, 0.0
    weight = snapshot.weight.copy()
    weight[0, 2], weight[1, 5] = 0.7, -0.4
    bias = np.array([0.5, -0.3], dtype=np.float32)
    snapshot = replace(snapshot, weight=weight, bias=bias, radius=radius, bias_radius=np.zeros(2, dtype=np.float32))
    asked = {"type": "max_nonzero", "value": 6}
    problem = problem_of(snapshot, spec_of(objective, asked, radius=None))
    program = ConvexProgram(replace(problem, objective=replace(problem.objective, name="mse")))
    rng = np.random.default_rng(0)
    every = np.ones((2, 9), dtype=bool)
    search = Splicing(program, Incumbents(problem, Control()), [(every, 6)], program.box, rng, lambda: False)
    for _ in range(5):
        support = rng.random((2, 9)) < 0.4
        support |= search.kept
        found = search._fitted(support, np.zeros_like(problem.radius))
        assert found.value == pytest.approx(program.smooth(found.change)[0], rel=1e-9)
        assert found.bound <= found.value


def test_a_count_on_raw_columns_begins_at_the_stand_ins_minimum():
    """A timestamp beside small numbers: descents in units of the largest column hardly move any other."""
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.normal(size=(500, 3)), 1.7e9 + 1e5 * rng.random(500)]).astype(np.float32)
    targets = (inputs[:, :3].sum(axis=1) + 0.3 * rng.normal(size=500) > 0).astype(np.int64)
    snapshot = Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets,
        weight=np.zeros((2, 4), dtype=np.float32),
        bias=np.zeros(2, dtype=np.float32),
    )
    problem, control = problem_of(snapshot, JobSpec(objective="zero_one", radius=5.0)), Control()
    incumbents = Incumbents(problem, control)
    strategy, budget = StandIn(problem, incumbents, None, 0.3), Budget(control, 60.0, 10)
    while strategy.advance(budget):
        pass
    assert incumbents.best.objective <= 50
