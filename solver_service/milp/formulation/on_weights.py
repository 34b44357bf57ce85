"""max_nonzero, grid and movement_cost: columns beside single weights. (Signs are limits of the box itself.)"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from shared.constraints import movement_prices, nearest_multiple, selected
from shared.contracts import Constraint
from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.formulation.parts import Part, plain_rows, sparse
from solver_service.milp.rounding.snapping import grid_range, inside

ZERO = 1e-9
"""Weights that are smaller, in units of what they can be, are 0."""


@dataclass(frozen=True, eq=False)
class Pins:
    """Where the integer columns of single weights are [h, d], -1 for none: u (not 0) and k (which multiple)."""

    nonzero: Index
    multiple: Index
    steps: Array

    def read(self, solution: Array) -> FloatArray:
        """The float32 weights [h, d] that a solution's integer columns decide; NaN for all others."""
        found = np.full(self.steps.shape, np.nan, dtype=np.float32)
        on = self.multiple >= 0
        found[on] = nearest_multiple(np.rint(solution[self.multiple[on]]) * self.steps[on], self.steps[on])
        off = self.nonzero >= 0
        off[off] = solution[self.nonzero[off]] < 0.5
        found[off] = 0.0
        return found


def weight_parts(problem: Problem, constraints: Sequence[Constraint], first: int) -> tuple[list[Part], Pins]:
    """The parts of all constraints on weights, columns from `first` on."""
    shape = problem.snapshot.weight.shape
    nothing = np.full(shape, -1, dtype=np.int64)
    parts, nonzero, multiple = [], nothing, nothing
    steps, low, high = grid_range(problem)
    if any(constraint.type == "max_nonzero" for constraint in constraints):
        part, nonzero = _nonzero_part(problem, constraints, first)
        parts.append(part)
        first += part.lower.size
    if any(constraint.type == "grid" for constraint in constraints):
        part, multiple = _grid_part(problem, steps, low, high, first)
        parts.append(part)
        first += part.lower.size
    prices = movement_prices(constraints, shape)
    if prices.any():
        parts.append(_movement_part(problem, prices, first))
    return parts, Pins(nonzero, multiple, steps)


def never_zero(problem: Problem) -> Mask:
    """The weights [h, d] whose box leaves 0 out."""
    return ~inside(problem, np.zeros_like(problem.snapshot.weight))


def _place(problem: Problem, chosen: Mask) -> Index:
    """The change's columns of the chosen weights, in order."""
    unit, column = np.nonzero(chosen)
    return np.asarray(unit * problem.radius.shape[1] + column)


def _weights(problem: Problem, change: Array) -> Array:
    return np.asarray((problem.center + problem.radius * change)[:, :-1])


def _nonzero_part(problem: Problem, constraints: Sequence[Constraint], first: int) -> tuple[Part, Index]:
    """`lo u <= w' <= hi u`, and at most s of u."""
    center, radius = problem.center[:, :-1], problem.radius[:, :-1]
    sparse_ones = [constraint for constraint in constraints if constraint.type == "max_nonzero"]
    sets = [selected(constraint, center.shape) for constraint in sparse_ones]
    always = never_zero(problem)
    free = np.logical_or.reduce(sets) & ~always & (radius > 0)
    column = np.full(center.shape, -1, dtype=np.int64)
    count = int(free.sum())
    column[free] = first + np.arange(count)
    c, r, size, row = center[free], radius[free], (np.abs(center) + radius)[free], np.arange(count)
    total = first + count
    moves, switches = (-r / size, row, _place(problem, free)), ((c + r) / size, row, column[free])
    upper = sparse(count, total, moves, switches)
    lower = sparse(count, total, (r / size, row, moves[2]), ((r - c) / size, row, switches[2]))
    at_most = []
    for members in sets:
        places = column[members & free]
        at_most.append(sparse(1, total, (-np.ones(places.size), np.zeros(places.size, dtype=np.int64), places)))
    most = [
        int((members & always).sum()) - min(constraint.value, int(members.sum()))
        for constraint, members in zip(sparse_ones, sets, strict=True)
    ]
    part = Part(
        rows=plain_rows(
            sp.csr_array(sp.vstack([upper, lower, *at_most], format="csr")),
            np.concatenate([c / size, -c / size, np.array(most, dtype=np.float64)]),
            tying=True,
        ),
        complete=lambda change: (np.abs(_weights(problem, change)[free]) > ZERO * size).astype(np.float64),
        objective=np.zeros(count),
        lower=np.zeros(count),
        upper=np.ones(count),
        integer=True,
    )
    return part, column


def _grid_part(problem: Problem, steps: Array, low: Array, high: Array, first: int) -> tuple[Part, Index]:
    """`w' = step k`, as two rows in units of the radius."""
    center, radius = problem.center[:, :-1], problem.radius[:, :-1]
    on = (steps > 0) & (radius > 0) & (low <= high)
    column = np.full(steps.shape, -1, dtype=np.int64)
    count = int(on.sum())
    column[on] = first + np.arange(count)
    row, places, size, half = np.arange(count), _place(problem, on), steps[on], radius[on]
    only = low[on] == high[on]
    # A single multiple needs no column, and its step may be out of all bounds.
    ratio = np.where(only, 0.0, size) / half
    ties = sparse(count, first + count, (np.ones(count), row, places), (-ratio, row, column[on]))
    needs = (np.where(only, low[on] * size, 0.0) - center[on]) / half
    part = Part(
        rows=plain_rows(
            sp.csr_array(sp.vstack([ties, -ties], format="csr")), np.concatenate([needs, -needs]), tying=True
        ),
        complete=lambda change: np.rint(_weights(problem, change)[on] / steps[on]),
        objective=np.zeros(count),
        lower=low[on],
        upper=high[on],
        integer=True,
    )
    return part, column


def _movement_part(problem: Problem, prices: Array, first: int) -> Part:
    """`m >= |w' - w|` in units of the whole box's half-width, at its price."""
    reach = problem.reach[:, :-1]
    priced = (prices > 0) & (reach > 0)
    count = int(priced.sum())
    row, places, columns = np.arange(count), _place(problem, priced), first + np.arange(count)
    ratio = problem.radius[:, :-1][priced] / reach[priced]
    shift = (problem.center[:, :-1] - problem.snapshot.weight)[priced] / reach[priced]
    up = sparse(count, first + count, (np.ones(count), row, columns), (-ratio, row, places))
    down = sparse(count, first + count, (np.ones(count), row, columns), (ratio, row, places))
    return Part(
        rows=plain_rows(sp.csr_array(sp.vstack([up, down], format="csr")), np.concatenate([shift, -shift])),
        complete=lambda change: np.abs(_weights(problem, change) - problem.snapshot.weight)[priced] / reach[priced],
        objective=(prices * reach)[priced],
        lower=np.zeros(count),
        upper=np.ones(count),
    )
