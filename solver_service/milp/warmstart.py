"""Good solutions before any branching; which search fits which objective."""

import numpy as np

from solver_service.milp.budget import Budget
from solver_service.milp.elastic import ElasticProgram
from solver_service.milp.elastic_filter import search_count, widened
from solver_service.milp.incumbents import Incumbents
from solver_service.milp.majorise import search_ramp
from solver_service.milp.problem import Space
from solver_service.milp.reduction import Screened
from solver_service.milp.search import Search


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
    program = ElasticProgram(space, wanted, should_stop=lambda: budget.over, on_change=incumbents.offer)
    rng = np.random.default_rng([seed, resumed])
    search = Search(space, screened, program, incumbents, budget, rng, budget.control.elapsed, resumed)
    (search_ramp if capped else search_count)(search)
