"""Searches over which samples to keep, by linear programs: which one fits which objective, as a strategy."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Space
from solver_service.milp.heuristics.programs.elastic_filter import search_count, widened
from solver_service.milp.heuristics.programs.kept_search import Search
from solver_service.milp.heuristics.programs.lazy_lp import LazyProgram
from solver_service.milp.heuristics.programs.majorise import search_ramp
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents


class KeptSets:
    """A strategy: each `advance` is one step of a search, which goes on where it was.

    `resumed` begins at the incumbent of an earlier search, without repeating that.
    """

    def __init__(
        self, space: Space, screened: Screened, incumbents: Incumbents, budget: Budget, seed: int, *, resumed: bool
    ) -> None:
        capped = screened.requirements.style == "capped"
        # A filter for counts pulls a little beyond the need; ramps have a margin of their own.
        wanted = screened.requirements if capped else widened(screened.requirements)
        program = LazyProgram(space, wanted, should_stop=lambda: self._search.budget.over, on_change=incumbents.offer)
        rng = np.random.default_rng([seed, resumed])
        began, price = budget.control.elapsed, screened.requirements.cost
        self._search = Search(space, screened, program, incumbents, budget, rng, began, resumed, price)
        self._steps: Iterator[None] = (search_ramp if capped else search_count)(self._search)

    def advance(self, budget: Budget) -> bool:
        """One step; False once the search has shown all it has: how long to wait for a gain is the caller's matter."""
        self._search.budget = replace(budget, patience=math.inf)
        return next(self._steps, self) is None

    def idle(self, budget: Budget) -> bool:
        """Whether nothing was gained for as long as the budget's patience, or nothing better can be found."""
        self._search.budget = budget
        return self._search.done


def improve(
    space: Space, screened: Screened, incumbents: Incumbents, budget: Budget, seed: int, *, resumed: bool = False
) -> None:
    """Take all steps: offer better and better solutions until the budget, or the hope for better ones, is used up."""
    search = KeptSets(space, screened, incumbents, budget, seed, resumed=resumed)
    while not search.idle(budget) and search.advance(budget):
        pass
