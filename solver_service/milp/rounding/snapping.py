"""Exact zeros and exact multiples: float32 weights made to fit max_nonzero and grid, as near as the box allows."""

import numpy as np

from shared.constraints import grid_steps, nearest_multiple, selected
from shared.contracts import Constraint
from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array, Mask, Problem


def snapped(problem: Problem, weight: FloatArray) -> FloatArray:
    """The weights with the smallest ones set to 0 and the others moved to their grid, where constraints ask for it."""
    for constraint in problem.constraints:
        if constraint.type == "max_nonzero":
            weight = _sparse(problem, constraint, weight)
    if any(constraint.type == "grid" for constraint in problem.constraints):
        weight = _gridded(problem, weight)
    return weight


def inside(problem: Problem, values: FloatArray | Array) -> Mask:
    """Which float32 values [h, d] the box and the limits of signs allow."""
    moved = np.abs(values.astype(np.float64) - problem.snapshot.weight)
    kept = (values >= problem.floor[:, :-1]) & (values <= problem.ceiling[:, :-1])
    return np.asarray((moved <= problem.reach[:, :-1]) & kept)


def grid_range(problem: Problem) -> tuple[Array, Array, Array]:
    """Each weight's step (0: no grid), and its lowest and highest multiple in the box; lowest > highest: none is."""
    steps = grid_steps(problem.constraints, problem.snapshot.weight.shape)
    size = np.where(steps > 0, steps, 1.0)
    middle, half = problem.center[:, :-1] / size, problem.radius[:, :-1] / size
    low, high = np.ceil(middle - half - 1e-6), np.floor(middle + half + 1e-6)
    # The multiple as float32 decides: rounding may move it over the edge, either way.
    low = np.where(inside(problem, (low * size).astype(np.float32)), low, low + 1)
    high = np.where(inside(problem, (high * size).astype(np.float32)), high, high - 1)
    return steps, low, high


def _sparse(problem: Problem, constraint: Constraint, weight: FloatArray) -> FloatArray:
    chosen = selected(constraint, weight.shape)
    surplus = np.count_nonzero(weight[chosen]) - int(min(constraint.value, chosen.sum()))
    if surplus <= 0:
        return weight
    may_vanish = chosen & (weight != 0) & inside(problem, np.zeros_like(weight))
    size = np.where(may_vanish, np.abs(weight), np.inf).ravel()
    smallest = np.argsort(size, kind="stable")[: min(surplus, int(may_vanish.sum()))]
    found = weight.copy()
    found.ravel()[smallest] = 0.0
    return found


def _gridded(problem: Problem, weight: FloatArray) -> FloatArray:
    steps, low, high = grid_range(problem)
    on = (steps > 0) & (low <= high)
    size = np.where(on, steps, 1.0)
    multiple = np.clip(np.rint(weight.astype(np.float64) / size), low, np.maximum(low, high))
    return np.where(on, nearest_multiple(multiple * size, size), weight).astype(np.float32)
