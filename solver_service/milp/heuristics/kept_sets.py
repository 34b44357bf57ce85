"""Good solutions before any branching; which search fits which objective."""

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Space
from solver_service.milp.heuristics.elastic_filter import search_count, widened
from solver_service.milp.heuristics.lazy_lp import LazyProgram
from solver_service.milp.heuristics.majorise import search_ramp
from solver_service.milp.heuristics.search import Search
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents


def improve(
    space: Space,
    screened: Screened,
    incumbents: Incumbents,
    budget: Budget,
    seed: int,
    *,
    resumed: bool = False,
) -> None:
    """Offer better and better solutions until the budget, or the hope for better ones, is used up.

    `resumed` goes on from the incumbent of an earlier call, without repeating it.
    """
    capped = screened.requirements.style == "capped"
    wanted = screened.requirements if capped else widened(screened.requirements)
    program = LazyProgram(space, wanted, should_stop=lambda: budget.over, on_change=incumbents.offer)
    rng = np.random.default_rng([seed, resumed])
    search = Search(space, screened, program, incumbents, budget, rng, budget.control.elapsed, resumed)
    (search_ramp if capped else search_count)(search)
