"""Convex programs in a box: their digits, their bounds, their ends, and that no unit of measure matters."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from milp_cases import job

from shared.contracts import SolveStatus
from shared.snapshot import Snapshot
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import problem_of
from solver_service.milp.final_layer.convex.program import CLOSE, ConvexProgram
from solver_service.milp.final_layer.convex.smoothed import minima
from solver_service.milp.solve import solve

CASES = [
    ("classification", "log_loss", {}),
    ("classification", "log_loss", {"l2": 0.05}),
    ("binary", "log_loss", {}),
    ("multilabel", "log_loss", {"l2": 0.01}),
    ("regression", "huber", {"delta": 0.3}),
    ("regression", "mse", {}),
]
PRICE = [{"type": "movement_cost", "value": 0.01}]


def _snapshot(task, *, n=60, d=4, seed=0):
    rng = np.random.default_rng(seed)
    h = 1 if task == "binary" else 3
    inputs = (rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 2, d)).astype(np.float32)
    scores = inputs / np.abs(inputs).max(axis=0) @ rng.normal(size=(d, h)) + 0.3 * rng.normal(size=(n, h))
    targets = {
        "classification": scores.argmax(axis=1),
        "binary": (scores[:, 0] > 0).astype(np.int64),
        "multilabel": (scores > 0).astype(np.int64),
        "regression": scores.astype(np.float32),
    }
    bias = np.zeros(h, np.float32)
    return Snapshot(task=task, inputs=inputs, targets=targets[task], weight=np.zeros((h, d), np.float32), bias=bias)


def _program(task, objective, *, constraints=(), **fields):
    spec = job(objective, radius=0.5, constraints=list(constraints), **fields)
    return ConvexProgram(problem_of(_snapshot(task), spec)), spec


@pytest.mark.parametrize("constraints", [[], PRICE], ids=["free", "priced"])
@pytest.mark.parametrize(("task", "objective", "fields"), CASES)
def test_the_gap_closes(task, objective, fields, constraints):
    """To the last digits, whatever the inputs' units are."""
    program, _ = _program(task, objective, constraints=constraints, **fields)
    least = program.minimise(*program.box, np.zeros(program.problem.radius.shape), lambda: False)
    assert least.solved
    assert least.value - least.bound <= CLOSE * least.value


@pytest.mark.parametrize("size", [1.0, 1e3, 1e7])
@pytest.mark.parametrize("task", ["classification", "binary", "multilabel"])
def test_a_loss_that_is_flat_leaves_what_weights_cost(task, size):
    """Few samples that biases alone get right by far: then no weight is worth its price, however large the inputs."""
    for seed in range(20):
        rng = np.random.default_rng([seed, 5])
        h = 1 if task == "binary" else 2
        targets = np.zeros((1, h) if task == "multilabel" else 1, np.int64)
        weight = rng.uniform(-0.3, 0.3, (h, 3)).astype(np.float32)
        inputs, bias = 2 * rng.normal(size=(1, 3)) * size, 0.4 * rng.normal(size=h) * size
        samples = {"inputs": inputs.astype(np.float32), "bias": bias.astype(np.float32), "targets": targets}
        spec = job("log_loss", radius=0.5, bias_radius=50 + 1.5 * size, l2=0.1)
        program = ConvexProgram(problem_of(Snapshot(task=task, weight=weight, **samples), spec))
        least = program.minimise(*program.box, np.zeros(program.problem.radius.shape), lambda: False)
        assert least.value <= 1e-6 * program.l2 * float((weight**2).sum())


@pytest.mark.parametrize(("task", "objective", "fields"), CASES)
def test_gradients_are_those_of_the_value(task, objective, fields):
    """Against central differences."""
    program, _ = _program(task, objective, **fields)
    rng = np.random.default_rng(1)
    change, direction = rng.uniform(-1, 1, (2, *program.problem.radius.shape))
    step = 1e-6
    ends = [program.smooth(change + side * step * direction)[0] for side in (1, -1)]
    slope = float((program.smooth(change)[1] * direction).sum())
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(("task", "objective", "fields"), CASES)
def test_the_bound_is_below_every_point_of_the_box(task, objective, fields):
    """Even that of a run that was stopped after a single look."""
    program, spec = _program(task, objective, **fields)
    stopped = program.minimise(*program.box, np.zeros(program.problem.radius.shape), lambda: True)
    rng = np.random.default_rng(2)
    for _ in range(50):
        change = rng.uniform(-1, 1, program.problem.radius.shape)
        assert program.smooth(change)[0] >= stopped.bound
    assert stopped.value == pytest.approx(spec.goal.value(program.problem.snapshot, *_own(program)))


def _own(program):
    return program.problem.snapshot.weight, program.problem.snapshot.bias


@pytest.mark.parametrize("constraints", [[], PRICE], ids=["free", "priced"])
@pytest.mark.parametrize(
    ("task", "objective"),
    [("regression", "mae"), ("regression", "quantile"), ("classification", "hinge"), ("multilabel", "hinge")],
)
def test_smoothed_objectives_close_in_on_the_linear_program(task, objective, constraints):
    """Every bound on the way is below the optimum, and the last minimum is next to it."""
    snapshot = _snapshot(task, n=100)
    spec = job(objective, radius=0.5, constraints=constraints, quantile=0.3)
    best = solve(snapshot, spec).result
    assert best.status is SolveStatus.OPTIMAL
    problem = problem_of(snapshot, spec)
    found = list(minima(problem, problem.cost, np.zeros(problem.radius.shape), lambda: False))
    assert max(least.bound for least in found) <= best.objective.final
    assert found[-1].value == pytest.approx(best.objective.final, rel=1e-4)


@pytest.mark.parametrize(
    ("task", "objective"), [("regression", "mae"), ("regression", "quantile"), ("binary", "hinge")]
)
def test_large_linear_objectives_are_descended_on(task, objective):
    """What no linear program would have done in the time is there, with a bound next to it."""
    snapshot = _snapshot(task, n=1500, d=8)
    result = solve(snapshot, job(objective, radius=0.5, limits={"nodes": 1})).result.objective
    assert result.final < 0.9 * result.start
    assert result.gap < 1e-4


def test_a_large_trimmed_mean_of_everything_is_mae():
    """Without trimming both are the same descent."""
    snapshot = _snapshot("regression", n=600, d=5)
    fits = [
        solve(snapshot, job(objective, radius=0.5, trim=0.0, limits={"nodes": 1})).result.objective.final
        for objective in ("trimmed_mae", "mae")
    ]
    assert fits[0] == pytest.approx(fits[1], rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("constraints", [[], [{"type": "max_nonzero", "value": 4}]], ids=["free", "sparse"])
def test_a_regression_in_other_units_has_the_same_weights(scale, constraints):
    """Targets, weights and radii times a number: values times its square, status and gap as before."""
    snapshot = _snapshot("regression", n=30, d=2)
    other = replace(snapshot, targets=(snapshot.targets * np.float32(scale)))
    plain = solve(snapshot, job("mse", radius=0.5, constraints=constraints)).result
    scaled = solve(other, job("mse", radius=0.5 * scale, constraints=constraints)).result
    assert plain.status is scaled.status is SolveStatus.OPTIMAL
    assert scaled.objective.final == pytest.approx(plain.objective.final * scale**2, rel=1e-5)


def test_a_stop_ends_a_program():
    """A job that is told to stop before it begins returns what it has, and claims nothing."""
    control = Control()
    control.stop()
    solution = solve(_snapshot("classification"), job("log_loss", radius=0.5), control)
    assert solution.result.status is SolveStatus.INTERRUPTED
    assert solution.result.objective.bound <= solution.result.objective.final


def test_a_node_limit_ends_the_branching():
    """And leaves a bound that is honest."""
    snapshot = _snapshot("regression", d=4)
    grid = [{"type": "grid", "value": 0.07}]
    few = solve(snapshot, job("huber", radius=0.5, constraints=grid, limits={"nodes": 1})).result
    all_of_them = solve(snapshot, job("huber", radius=0.5, constraints=grid)).result
    assert few.nodes == 1
    assert few.objective.bound <= all_of_them.objective.final * (1 + 1e-6)


def test_trimming_finds_the_line_under_the_outliers():
    """A third of the targets is far off; the others lie on a line, which is found."""
    rng = np.random.default_rng(3)
    inputs = rng.uniform(-1, 1, (60, 1)).astype(np.float32)
    targets = (0.7 * inputs[:, 0]).astype(np.float32)
    targets[::4] += rng.uniform(5, 9, 15).astype(np.float32)
    snapshot = Snapshot(
        task="regression",
        inputs=inputs,
        targets=targets,
        weight=np.zeros((1, 1), np.float32),
        bias=np.zeros(1, np.float32),
    )
    for objective in ("trimmed_mse", "trimmed_mae"):
        limits = {"time_s": 20.0, "nodes": 1}
        solution = solve(snapshot, job(objective, radius=10.0, trim=0.25, limits=limits))
        assert solution.weight[0, 0] == pytest.approx(0.7, abs=1e-3)
        assert solution.result.objective.final < 1e-4


@pytest.mark.parametrize("objective", ["trimmed_mse", "trimmed_mae"])
@pytest.mark.parametrize("constraint", [{"type": "max_nonzero", "value": 0}, {"type": "grid", "value": 4.0}])
@pytest.mark.parametrize("seed", range(6))
def test_trimming_under_constraints_on_weights_finds_the_samples_to_keep(objective, constraint, seed):
    """All weights are 0, so that a bias alone is fitted: as good as the best of all that many of the targets."""
    rng = np.random.default_rng(seed)
    targets = 10 * rng.normal(size=(7, 1))
    snapshot = Snapshot(
        task="regression",
        inputs=rng.normal(size=(7, 2)).astype(np.float32),
        targets=targets.astype(np.float32),
        weight=np.zeros((1, 2), dtype=np.float32),
        bias=np.zeros(1, dtype=np.float32),
    )
    spec = job(objective, radius=1.0, bias_radius=40.0, trim=0.4, constraints=[constraint])
    found = solve(snapshot, spec).result.objective.final
    tried = [
        spec.value(
            snapshot, snapshot.weight, np.array([np.mean(kept) if "mse" in objective else np.median(kept)], "f4")
        )
        for size in range(1, 8)
        for kept in combinations(targets.ravel(), size)
    ]
    assert found <= min(tried) * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_trimming_tries_the_few_samples_that_fit_exactly(seed):
    """Of hardly more samples than weights, too: those that lie on a plane are kept, and the error is nothing."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4, 2))
    targets = inputs @ rng.uniform(-0.5, 0.5, (2, 1)) + 0.2
    targets[seed % 4] += 3.0
    snapshot = Snapshot(
        task="regression",
        inputs=inputs.astype(np.float32),
        targets=targets.astype(np.float32),
        weight=np.zeros((1, 2), dtype=np.float32),
        bias=np.zeros(1, dtype=np.float32),
    )
    for objective in ("trimmed_mse", "trimmed_mae"):
        assert solve(snapshot, job(objective, radius=1.0, trim=0.3)).result.objective.final < 1e-6
