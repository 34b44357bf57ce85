"""Entries with a few values each, and how many may differ from 0: what a walk has to respect between its steps."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from shared.constraints import selected
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.rounding.into_box import change_of, weights_of
from solver_service.milp.rounding.snapping import PINNING, LevelChoice, grid_range, level_choices, snapped

MOST_CHOICES = 32
"""Multiples of a grid that are tried on either side of where an entry is."""


@dataclass(frozen=True, eq=False)
class Discrete:
    """Grids, levels and numbers of nonzeros of a problem.

    `stepped` [h, d+1] marks entries on a grid or on levels, `sparse` those of which only so many may differ from 0.
    """

    problem: Problem
    stepped: Mask
    steps: Array
    low: Array
    high: Array
    sparse: tuple[tuple[Mask, float], ...]
    listed: tuple[tuple[LevelChoice, Index], ...]

    @classmethod
    def of(cls, problem: Problem) -> Self | None:
        """What a problem asks of single weights; None where that is nothing."""
        if not any(constraint.type in PINNING for constraint in problem.constraints):
            return None
        steps, low, high = grid_range(problem)
        stepped = np.zeros(problem.radius.shape, dtype=bool)
        stepped[:, :-1] = steps > 0
        listed = []
        for choice in level_choices(problem):
            stepped[:, :-1] |= choice.chosen
            # Each entry's number among the chosen ones, which is its row in `allowed`.
            listed.append((choice, np.cumsum(choice.chosen).reshape(choice.chosen.shape) - 1))
        sparse = tuple(
            (np.pad(selected(constraint, problem.snapshot.weight.shape), ((0, 0), (0, 1))), constraint.value)
            for constraint in problem.constraints
            if constraint.type == "max_nonzero"
        )
        return cls(problem, stepped, steps, low, high, sparse, tuple(listed))

    def settled(self, change: Array) -> Array:
        """The nearest change [h, d+1] that keeps grids, levels and numbers of nonzeros."""
        weight, bias = weights_of(self.problem, change)
        return change_of(self.problem, snapped(self.problem, weight), bias)

    def zeros(self, change: Array) -> Mask:
        """The entries of a change [h, d+1] that are 0 and counted."""
        problem = self.problem
        weight = problem.center + problem.radius * change
        # Up to rounding, relative to what the weight can be.
        zero = np.abs(weight) <= 1e-9 * (np.abs(problem.center) + problem.radius)
        return np.asarray(zero & self.counted)

    def free(self, zeros: Mask) -> Mask:
        """The entries that may move on from these zeros [h, d+1]: they stay where no more nonzeros are allowed."""
        found = self.problem.radius > 0
        for chosen, most in self.sparse:
            # No more may differ from 0, so the zeros have to stay where they are.
            if (chosen & ~zeros).sum() >= most:
                found &= ~(chosen & zeros)
        return found

    @property
    def counted(self) -> Mask:
        """The entries [h, d+1] of which only so many may differ from 0."""
        nothing = np.zeros(self.problem.radius.shape, dtype=bool)
        return np.asarray(np.logical_or.reduce([nothing, *(chosen for chosen, _ in self.sparse)]))

    @property
    def zero(self) -> Array:
        """The change [h, d+1] that makes each weight 0, whether the box allows it or not."""
        radius = self.problem.radius
        return np.divide(-self.problem.center, radius, out=np.full_like(radius, np.inf), where=radius > 0)

    def zeroable(self, change: Array) -> Mask:
        """The weights that differ from 0 and may become 0, where a constraint counts them."""
        return np.asarray(self.counted & (np.abs(self.zero) <= 1.0) & (change != self.zero))

    def choices(self, unit: int, entry: int, now: float) -> Array:
        """The changes that an entry on a grid or on levels may have; on a fine grid only those around `now`."""
        center, radius = self.problem.center[unit, entry], self.problem.radius[unit, entry]
        if radius == 0:
            return np.zeros(1)
        if self.steps[unit, entry] > 0:
            at = (center + radius * now) / self.steps[unit, entry]
            low = max(self.low[unit, entry], np.floor(at) - MOST_CHOICES)
            high = min(self.high[unit, entry], np.ceil(at) + MOST_CHOICES)
            values = np.arange(low, high + 1) * self.steps[unit, entry]
        else:
            choice, places = next(found for found in self.listed if found[0].chosen[unit, entry])
            values = choice.values[choice.allowed[places[unit, entry]]].astype(np.float64)
        return np.asarray((values - center) / radius)
