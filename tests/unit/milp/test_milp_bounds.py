"""Dual bounds of the output layer: never above the optimum by exhaustive search, whatever data, duals and blocks."""

import subprocess
import sys

import numpy as np
import pytest
from milp_cases import job, optimum, tiny

from shared.snapshot import Snapshot
from solver_service.milp.bounds.block_bound import block_value, raise_by_blocks, split
from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.bounds.rows import GIVEN
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.final_layer.bounding import believed
from solver_service.milp.formulation.compact import columns_of, complete
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.presolve.aggregation import fold
from solver_service.milp.presolve.screening import screen

OBJECTIVES = ("zero_one", "ramp", "outliers")


def nasty(seed, objective):
    """A tiny instance with what bounds go wrong on: duplicates, zero columns, ties, weights, boxes without room."""
    rng = np.random.default_rng([seed, 7])
    n, d, h = int(rng.integers(2, 6)), int(rng.integers(1, 4)), int(rng.integers(2, 4))
    inputs = rng.normal(size=(n, d))
    tensors = {"weight": rng.normal(scale=0.5, size=(h, d))}
    if rng.random() < 0.3:
        inputs[:, rng.integers(d)] = 0.0
    if rng.random() < 0.3:
        inputs[rng.integers(n)] = inputs[rng.integers(n)]
    tensors["inputs"] = inputs
    if rng.random() < 0.6:
        tensors["bias"] = rng.normal(scale=0.5, size=h)
    if rng.random() < 0.3:
        tensors["sample_weight"] = rng.choice([0.0, 0.5, 1.0, 3.0], n)
        tensors["sample_weight"][0] = 1.0
    if rng.random() < 0.3:
        tensors["radius"] = rng.choice([0.0, 0.25, 0.5], (h, d))
        tensors["radius"][0, 0] = 0.5
        if "bias" in tensors:
            tensors["bias_radius"] = rng.choice([0.0, 0.5], h)
    if rng.random() < 0.4:
        tensors = {name: np.round(values * 4) / 4 for name, values in tensors.items()}
    tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
    classes = objective != "outliers"
    targets = rng.integers(0, h, n) if classes else rng.normal(size=(n, h)).astype(np.float32)
    snapshot = Snapshot(task="classification" if classes else "regression", targets=targets, **tensors)
    return snapshot, job(objective, radius=None if "radius" in tensors else float(rng.choice([0.1, 0.5, 1.0])))


def relaxed(snapshot, spec):
    """The relaxation of what reductions leave, solved to the end."""
    problem = problem_of(snapshot, spec)
    screened, folding = fold(problem, screen(requirements_of(problem)))
    if not screened.requirements.rows:
        return None, problem
    cuts = pair_cuts(folding.space, screened.requirements)
    relaxation = PairRelaxation(folding.space, screened.requirements, cuts, constant=screened.cost)
    assert relaxation.run(lambda: False, lambda _: None)
    return relaxation, problem


def check_bounds(seed, objective):
    """Every bound on the way is below the optimum, and branching rows cut no best solution off; how many gained."""
    snapshot, spec = nasty(seed, objective)
    relaxation, problem = relaxed(snapshot, spec)
    if relaxation is None:
        return False
    best, told = optimum(snapshot, spec), []
    first = relaxation.bound
    raise_by_blocks(relaxation, lambda: False, told.append, size=2)
    assert told == sorted(told)
    for bound in (first, *told, relaxation.bound):
        assert believed(problem, bound) <= best + 1e-9 * (1 + best)
    return relaxation.bound > first + 1e-6


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_bound_exceeds_the_optimum(objective):
    """Relaxation, blocks and what they leave behind, on a hundred tiny instances; some of the blocks do gain."""
    assert sum(check_bounds(seed, objective) for seed in range(100)) > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_left_for_branching_cut_no_point_off(objective):
    """Every change extends to a point of the model that keeps the cuts' and the blocks' rows, too."""
    given = 0
    for seed in range(40):
        relaxation, _ = relaxed(*nasty(seed, objective))
        if relaxation is None:
            continue
        raise_by_blocks(relaxation, lambda: False, lambda _: None, size=2)
        model, left, space = relaxation.branching_model(lambda: False), relaxation.requirements, relaxation.space
        given += int((relaxation.rows.kind == GIVEN).sum())
        for change in np.random.default_rng(seed).uniform(-1, 1, (20, *space.radius.shape)):
            point = complete(left, columns_of(space, left), change, left.values(space, change))
            assert (model.matrix @ point >= model.row_lower - 1e-9).all()
            assert model.leading.size == model.rows == model.indicator.size
    assert given > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_any_duals_and_any_blocks_give_a_valid_bound(objective):
    """The split's proof asks nothing of the duals but their sign: random ones, and random blocks, stay below."""
    for seed in range(40):
        snapshot, spec = nasty(seed, objective)
        relaxation, _ = relaxed(snapshot, spec)
        if relaxation is None:
            continue
        rng = np.random.default_rng(seed)
        relaxation.duals = rng.exponential(0.5, relaxation.duals.size)
        members = rng.permutation(relaxation.requirements.groups)
        blocks = np.array_split(members, int(rng.integers(1, members.size + 1)))
        rest, parts = split(relaxation, blocks)
        values = (block_value(relaxation, block, 10.0, lambda: False)[0] for block in parts)
        best = optimum(snapshot, spec)
        assert relaxation.model.constant + relaxation.unit * (rest + sum(values)) <= best + 1e-6 * (1 + best)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_pair_of_blocks_proves_at_least_what_its_halves_gained(objective):
    """At the same duals, whatever they are; so a pair may begin with what its halves proved."""
    gained = 0.0
    for seed in range(40):
        relaxation, _ = relaxed(*nasty(seed, objective))
        if relaxation is None or relaxation.requirements.groups < 2:
            continue
        rng = np.random.default_rng(seed)
        relaxation.duals = rng.exponential(0.5, relaxation.duals.size)
        halves = np.array_split(rng.permutation(relaxation.requirements.groups), 2)
        _, parts = split(relaxation, halves)
        _, [pair] = split(relaxation, [np.concatenate(halves)])
        gain = sum(block_value(relaxation, block, 10.0, lambda: False)[0] - block.proven for block in parts)
        value, scale = block_value(relaxation, pair, 10.0, lambda: False)
        assert value >= pair.proven + gain - 1e-4 * (scale + abs(value))
        gained += gain
    assert gained > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_blocks_of_a_relaxation_that_was_stopped(objective):
    """Its last duals are split all the same: below the optimum, never below what was told before."""
    for seed in range(30):
        snapshot, spec = nasty(seed, objective)
        problem = problem_of(snapshot, spec)
        screened, folding = fold(problem, screen(requirements_of(problem)))
        if not screened.requirements.rows:
            continue
        cuts = pair_cuts(folding.space, screened.requirements)
        relaxation = PairRelaxation(folding.space, screened.requirements, cuts, constant=screened.cost)
        clock = iter([False] * (1 + seed % 3))
        relaxation.run(lambda: next(clock, True), lambda _: None)  # noqa: B023
        told = [relaxation.bound]
        raise_by_blocks(relaxation, lambda: False, told.append, size=2)
        assert told == sorted(told)
        best = optimum(snapshot, spec)
        assert believed(problem, relaxation.bound) <= best + 1e-9 * (1 + best)
        assert relaxation.run(lambda: False, told.append)
        assert believed(problem, relaxation.bound) <= best + 1e-9 * (1 + best)


SOLVE_BY_HIGHS = """
from milp_cases import tiny
from solver_service.milp.solve import solve
snapshot, spec = tiny(0, "ramp")
for backend in ("scip", "highs"):
    solve(snapshot, spec.model_copy(update={"solver": spec.solver.model_copy(update={"backend": backend})}))
"""


def test_a_solve_prints_nothing():
    """Not even the banner that HiGHS prints once per process, so it takes a process of its own to see."""
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{SOLVE_BY_HIGHS}"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (printed.stdout, printed.stderr) == ("", "")


@pytest.mark.parametrize("looks", [0, 1, 3, 10])
def test_a_stop_keeps_what_was_proven(looks):
    """Stopped at any look at the clock, the bound is the last one that was told, and the rows still make a model."""
    snapshot, spec = tiny(3, "ramp", n=30, h=2)
    problem = problem_of(snapshot, spec)
    screened = screen(requirements_of(problem))
    cuts = pair_cuts(problem, screened.requirements)
    relaxation, told = PairRelaxation(problem, screened.requirements, cuts), [0.0]
    clock = iter([False] * looks)
    stop = lambda: next(clock, True)  # noqa: E731
    if relaxation.run(stop, told.append):
        raise_by_blocks(relaxation, stop, told.append, size=4)
    assert relaxation.bound == max(told)
    assert relaxation.branching_model(lambda: True) is None
    assert relaxation.branching_model(lambda: False).rows >= screened.requirements.rows
