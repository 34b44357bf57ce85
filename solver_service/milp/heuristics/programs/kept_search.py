"""What every search over kept groups shares: an elastic LP, the incumbents to improve, a budget, and a seed."""

from dataclasses import dataclass

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Mask, Space
from solver_service.milp.heuristics.programs.lazy_lp import LazyPoint, LazyProgram
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents

BETTER = 1e-9
"""Losses that differ by less are the same."""


@dataclass(frozen=True, eq=False)
class Found:
    """A solution of the reduced problem: its loss at the search's prices, the LP's point, and the groups it keeps."""

    loss: float
    point: LazyPoint
    kept: Mask


@dataclass(eq=False)
class Search:
    """The ingredients of one search; `program` pulls towards what it wants, `screened` says what counts.

    `budget` is that of the phase it runs in. It began at `began` seconds on the control's clock; `resumed` says that an
    earlier one found the incumbent. `price` [groups] is what it minimises: the costs, unless constraints have some
    samples weigh more.
    """

    space: Space
    screened: Screened
    program: LazyProgram
    incumbents: Incumbents
    budget: Budget
    rng: np.random.Generator
    began: float
    resumed: bool
    price: Array

    @property
    def done(self) -> bool:
        """True when nothing better can be found, no time is left, or patience is: it grows with what success took."""
        if self.budget.over or self.incumbents.best.objective <= self.incumbents.bound:
            return True
        improved = max([self.began, *(found.t_s for found in self.incumbents.history[-1:])])
        return self.budget.control.elapsed - improved > max(self.budget.patience, improved - self.began)
