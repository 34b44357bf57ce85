"""Exact line search: along a direction each sample is right on one interval of steps, so a sort finds the best step."""

from dataclasses import dataclass

import numpy as np

from solver_service.milp.core.problem import Array, Index
from solver_service.milp.heuristics.walks.tally import Tally

NARROW = 1e-12
"""Stretches of steps below this share of the range are no place to stop at."""


@dataclass(frozen=True, eq=False)
class Line:
    """Items along a line of steps: right on `[low, high]`, which is empty where low > high; weight and cell of each."""

    low: Array
    high: Array
    weight: Array
    cell: Index


@dataclass(frozen=True, eq=False)
class Stretches:
    """Stretches of steps on which the same items are right: a step in the middle [m], the width [m], right [m, c]."""

    middle: Array
    width: Array
    right: Array

    def at(self, steps: Array) -> "Stretches":
        """The same for given steps [s] alone, each with the width of the stretch that it is in."""
        # [m - 1]: where neighbours meet.
        edges = self.middle[1:] - self.width[1:] / 2
        place = np.searchsorted(edges, steps)
        return Stretches(steps, self.width[place], self.right[place])


@dataclass(frozen=True, eq=False)
class Kinks:
    """A sum of capped losses along a line: `base` at step `-inf`'s side, and changes of slope at steps.

    Each item costs `weight` times a function that is constant, then linear, then constant: slope `slope` between the
    steps `begin` and `end`.
    """

    begin: Array
    end: Array
    slope: Array
    at_zero: float


def stretches(line: Line, cells: int, least: float, most: float) -> Stretches:
    """Cut the steps from least to most where an item turns right or wrong; O(n log n) for n items."""
    # Items that are right nowhere, or only outside of the range, change nothing in it.
    inside = (line.low <= line.high) & (line.high >= least) & (line.low <= most)
    low, high = line.low[inside], line.high[inside]
    weight, cell = line.weight[inside], line.cell[inside]
    from_start = low <= least
    base = np.bincount(cell[from_start], weights=weight[from_start], minlength=cells)
    # An interval that begins in the range turns its item right there; one that ends turns it wrong.
    begins, ends = ~from_start, high < most
    steps = np.concatenate([low[begins], high[ends]])
    order = np.argsort(steps, kind="stable")
    steps = steps[order]
    change = np.concatenate([weight[begins], -weight[ends]])[order]
    if cells == 1:
        right = (base[0] + np.concatenate([[0.0], np.cumsum(change)]))[:, None]
    else:
        # [stretches, cells]: what turns at each step, then summed up along the line.
        right = np.zeros((len(steps) + 1, cells))
        right[np.arange(1, len(steps) + 1), np.concatenate([cell[begins], cell[ends]])[order]] = change
        right[0] = base
        np.cumsum(right, axis=0, out=right)
    edges = np.concatenate([[least], steps, [most]])
    return Stretches((edges[:-1] + edges[1:]) / 2, np.diff(edges), right)


def losses_at(kinks: Kinks, steps: Array) -> Array:
    """The sum of the losses at sorted steps [m]: cumulative sums over the sorted kinks."""
    places = np.concatenate([kinks.begin, kinks.end])
    change = np.concatenate([kinks.slope, -kinks.slope])
    order = np.argsort(places, kind="stable")
    places, change = places[order], change[order]
    # The slope behind each kink, 0 before the first: every item is constant there.
    slope = np.concatenate([[0.0], np.cumsum(change)])
    # f(a) = f(0) + sum over kinks k before a of change_k (a - k), less the same at 0.
    moment = np.concatenate([[0.0], np.cumsum(change * places)])
    before = np.searchsorted(places, steps)
    zero = np.searchsorted(places, 0.0)
    return np.asarray(kinks.at_zero + slope[before] * steps - moment[before] + moment[zero])


def best_stretch(found: Stretches, tally: Tally, price: float) -> tuple[float, float, int]:
    """The stretch of least cost, and of those the widest: (by how much it breaks constraints, errors, its place)."""
    # Between ends that differ by rounding alone there is no step that float32 weights could take.
    usable = found.width > NARROW * (np.abs(found.middle).max() + found.width.max())
    broken = tally.broken(found.right) if tally.asks else np.zeros(len(found.width))
    wrong = tally.wrong(found.right)
    cost = np.where(usable, wrong + price * broken, np.inf)
    # Of equal ones the widest: its middle is farthest from where anything turns.
    place = int(np.where(cost <= cost.min(), found.width, -1.0).argmax())
    return float(broken[place]), float(wrong[place]), place
