"""What weights themselves cost in a descent: the price of their movement, and l2."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from shared.constraints import movement_prices
from solver_service.milp.core.problem import Array, Problem


@dataclass(frozen=True, eq=False)
class WeightPrices:
    """Prices [h, c] of a whole change of each entry, and of squared weights; biases have none.

    `own` [h, c] is the change that gives the snapshot's weights.
    """

    problem: Problem
    movement: Array
    l2: float
    own: Array
    penalised: Array

    @classmethod
    def of(cls, problem: Problem, per_value: float) -> Self:
        """In units of a descent, of which a unit of the job's objective is `per_value`."""
        snapshot = problem.snapshot
        prices = np.pad(movement_prices(problem.constraints, snapshot.weight.shape), ((0, 0), (0, 1)))
        own = np.pad(snapshot.weight.astype(np.float64), ((0, 0), (0, 1))) - problem.center
        return cls(
            problem=problem,
            movement=prices * problem.radius * per_value,
            l2=problem.objective.l2 * per_value,
            own=np.divide(own, problem.radius, out=np.zeros_like(own), where=problem.radius > 0),
            # [c]: all but the bias.
            penalised=np.arange(problem.radius.shape[1]) < snapshot.weight.shape[1],
        )

    def __call__(self, change: Array, width: float) -> tuple[float, Array]:
        """Value and slope [h, c] at a change, the kink of movement rounded off by `width` radii."""
        moved = change - self.own
        size = np.sqrt(moved**2 + width**2)
        weight = (self.problem.center + self.problem.radius * change) * self.penalised
        value = float((self.movement * (size - width)).sum() + self.l2 * (weight**2).sum())
        return value, self.movement * moved / size + 2 * self.l2 * weight * self.problem.radius
