"""Exact zeros, multiples and levels: float32 weights made to fit what speaks of single weights, as near as can be."""

from dataclasses import dataclass

import numpy as np

from shared.constraints import grid_steps, level_values, nearest_multiple, selected
from shared.contracts import Constraint
from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array, Index, Mask, Problem

PINNING = ("max_nonzero", "grid", "levels")
"""Constraints that leave single weights a few values each, or only some of them any."""


def snapped(problem: Problem, weight: FloatArray) -> FloatArray:
    """The weights with the smallest ones set to 0 and the others moved to their grid, where constraints ask for it."""
    for constraint in problem.constraints:
        if constraint.type == "max_nonzero":
            weight = _sparse(problem, constraint, weight)
    if any(constraint.type == "grid" for constraint in problem.constraints):
        weight = _gridded(problem, weight)
    for choice in level_choices(problem):
        weight = choice.nearest(weight)
    return weight


@dataclass(frozen=True, eq=False)
class LevelChoice:
    """The weights [h, d] of one `levels`, their values [L] (float32, rising), and which the box allows [w, L]."""

    chosen: Mask
    values: FloatArray
    allowed: Mask

    def places(self, weights: FloatArray | Array) -> Index:
        """The number of the allowed level that is nearest to each chosen weight [w]; 0 where none is allowed."""
        # [w, L], the way of each chosen weight to each level.
        apart = np.abs(self.values.astype(np.float64) - weights[self.chosen].astype(np.float64)[:, None])
        return np.asarray(np.where(self.allowed, apart, np.inf).argmin(axis=1))

    def nearest(self, weight: FloatArray) -> FloatArray:
        """The weights [h, d] at their nearest allowed levels; those that have none stay."""
        found = weight.copy()
        found[self.chosen] = np.where(
            self.allowed.any(axis=1), self.values[self.places(weight)], weight[self.chosen]
        ).astype(np.float32)
        return found


def level_choices(problem: Problem) -> list[LevelChoice]:
    """What each `levels` leaves to choose."""
    found = []
    for constraint in problem.constraints:
        if constraint.type == "levels":
            chosen = selected(constraint, problem.snapshot.weight.shape)
            values = level_values(constraint.levels or ())
            everywhere = np.zeros_like(problem.snapshot.weight)
            allowed = [inside(problem, everywhere + value)[chosen] for value in values]
            found.append(LevelChoice(chosen, values, np.column_stack(allowed)))
    return found


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
    # A little generous in float64; the float32 multiple itself decides below.
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
    # The smallest weights go, of those that the box lets be 0.
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
