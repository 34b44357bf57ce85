"""max_nonzero, grid, levels and movement_cost: columns beside single weights. (Signs are limits of the box itself.)"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from shared.constraints import movement_prices, nearest_multiple, selected
from shared.contracts import Constraint
from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.formulation.constraints.parts import Part, plain_rows, sparse
from solver_service.milp.rounding.snapping import LevelChoice, grid_range, inside, level_choices

ZERO = 1e-9
"""Weights that are smaller, in units of what they can be, are 0."""


@dataclass(frozen=True, eq=False)
class Pins:
    """Where the integer columns of single weights are [h, d], -1 for none: u (not 0) and k (which multiple).

    `levels` are those with a binary a level: the weights [h, d], their columns [w, L], and the values [L].
    """

    nonzero: Index
    multiple: Index
    steps: Array
    levels: tuple[tuple[Mask, Index, FloatArray], ...] = ()

    def read(self, solution: Array) -> FloatArray:
        """The float32 weights [h, d] that a solution's integer columns decide; NaN for all others."""
        found = np.full(self.steps.shape, np.nan, dtype=np.float32)
        # k step as float32: the number that the constraint is checked on.
        on = self.multiple >= 0
        found[on] = nearest_multiple(np.rint(solution[self.multiple[on]]) * self.steps[on], self.steps[on])
        off = self.nonzero >= 0
        # u = 0: exactly 0, whatever x says.
        off[off] = solution[self.nonzero[off]] < 0.5
        found[off] = 0.0
        for chosen, columns, values in self.levels:
            found[chosen] = values[solution[columns].argmax(axis=1)]
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
    levels = []
    for choice in level_choices(replace(problem, constraints=tuple(constraints))):
        part, pins = _level_part(problem, choice, first)
        parts.append(part)
        levels.append(pins)
        first += part.lower.size
    prices = movement_prices(constraints, shape)
    if prices.any():
        parts.append(_movement_part(problem, prices, first))
    return parts, Pins(nonzero, multiple, steps, tuple(levels))


def never_zero(problem: Problem) -> Mask:
    """The weights [h, d] whose box, or whose levels, leave 0 out."""
    found = ~inside(problem, np.zeros_like(problem.snapshot.weight))
    for choice in level_choices(problem):
        found |= choice.chosen & (0.0 not in choice.values)
    return found


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
    # Columns u of weights that may be 0 or not; those that cannot be 0 count against s without one.
    column = np.full(center.shape, -1, dtype=np.int64)
    count = int(free.sum())
    column[free] = first + np.arange(count)
    c, r, size, row = center[free], radius[free], (np.abs(center) + radius)[free], np.arange(count)
    total = first + count
    # -r x + (c + r) u >= c, which is w <= hi u, and r x + (r - c) u >= -c, which is w >= lo u.
    moves, switches = (-r / size, row, _place(problem, free)), ((c + r) / size, row, column[free])
    upper = sparse(count, total, moves, switches)
    lower = sparse(count, total, (r / size, row, moves[2]), ((r - c) / size, row, switches[2]))
    at_most = []
    for members in sets:
        places = column[members & free]
        at_most.append(sparse(1, total, (-np.ones(places.size), np.zeros(places.size, dtype=np.int64), places)))
    # -sum u >= (those never 0) - s
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
    # x - (step / r) k = -c / r
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


def _level_part(problem: Problem, choice: LevelChoice, first: int) -> tuple[Part, tuple[Mask, Index, FloatArray]]:
    """`w' = sum_j level_j b_j` and `sum_j b_j = 1`, in units of the radius; levels out of reach are fixed at 0."""
    center, radius = problem.center[:, :-1], problem.radius[:, :-1]
    movable = choice.allowed.any(axis=1) & (radius[choice.chosen] > 0)
    on = np.zeros_like(choice.chosen)
    on[choice.chosen] = movable
    allowed = choice.allowed[movable]
    columns = first + np.arange(allowed.size).reshape(allowed.shape)
    total, weight = first + allowed.size, np.arange(len(allowed))
    row = np.repeat(weight, allowed.shape[1])
    # Levels as changes [w, L], (level - c) / r: x - sum_j level_j b_j = 0.
    level = (choice.values.astype(np.float64) - center[on][:, None]) / radius[on][:, None]
    ratio = np.where(allowed, level, 0.0).ravel()
    ties = sparse(
        weight.size, total, (np.ones(weight.size), weight, _place(problem, on)), (-ratio, row, columns.ravel())
    )
    sums = sparse(weight.size, total, (np.ones(row.size), row, columns.ravel()))
    nothing, one = np.zeros(weight.size), np.ones(weight.size)
    own = LevelChoice(on, choice.values, allowed)

    def complete(change: Array) -> Array:
        found = np.zeros(allowed.shape)
        found[weight, own.places(_weights(problem, change))] = 1.0
        return found.ravel()

    part = Part(
        rows=plain_rows(
            sp.csr_array(sp.vstack([ties, -ties, sums, -sums], format="csr")),
            np.concatenate([nothing, nothing, one, -one]),
            tying=True,
        ),
        complete=complete,
        objective=np.zeros(allowed.size),
        lower=np.zeros(allowed.size),
        upper=allowed.astype(np.float64).ravel(),
        integer=True,
    )
    return part, (on, columns, choice.values)


def _movement_part(problem: Problem, prices: Array, first: int) -> Part:
    """`m >= |w' - w|` in units of the whole box's half-width, at its price."""
    reach = problem.reach[:, :-1]
    priced = (prices > 0) & (reach > 0)
    count = int(priced.sum())
    row, places, columns = np.arange(count), _place(problem, priced), first + np.arange(count)
    # reach m >= |r x + c - w0|: m -+ (r / reach) x >= +-(c - w0) / reach
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
