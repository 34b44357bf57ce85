"""Which bounds are proven when: conflicts between samples, their relaxation to the end, and blocks of samples."""

from collections.abc import Callable
from dataclasses import dataclass

from solver_service.milp.bounds.block_bound import raise_by_blocks
from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.bounds.relaxation import relax
from solver_service.milp.core.problem import Problem
from solver_service.milp.core.solution import is_integral, safe_bound
from solver_service.milp.final_layer.job import Job
from solver_service.milp.formulation.compact import Cuts, cuts_model
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.formulation.model import LinearModel

CONFLICTS_SHARE = 0.1
"""Of the time left, for what conflicts alone prove."""
RELAXATION_SHARE = 0.4
"""Of the time left, for the relaxation; it seldom needs as much."""
BLOCK_SHARE = {"count": 0.05, "capped": 0.7}
"""Of the time left after it, for blocks of samples; branching does better on counts."""


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Cuts from pairs of samples: all of them, and those that their own relaxation took."""

    pool: Cuts
    used: Cuts


def bound_by_conflicts(job: Job) -> Conflicts:
    """What pairs of samples prove by themselves."""
    requirements, budget = job.screened.requirements, job.budget().share(CONFLICTS_SHARE)
    pool = pair_cuts(job.space, requirements, lambda: budget.over)
    relaxation = relax(cuts_model(requirements, pool, constant=job.screened.cost), lambda: budget.over)
    _teller(job)(relaxation.bound)
    return Conflicts(pool, pool.select(relaxation.used))


def bound_by_relaxation(job: Job, conflicts: Conflicts) -> LinearModel | None:
    """What the relaxation with all conflicts proves, and blocks of samples from its duals.

    Returns the compact model for branching: the rows that were tight at the end lead, and every block that gained has
    left a row, so that a solver's first LP is at this bound already. None when the time is over.
    """
    relaxation = PairRelaxation(job.space, job.screened.requirements, conflicts.pool, constant=job.screened.cost)
    budget = job.budget().share(RELAXATION_SHARE)
    if relaxation.run(lambda: budget.over, _teller(job)) and not job.proven:
        blocks = job.budget().share(BLOCK_SHARE[job.screened.requirements.style])
        raise_by_blocks(
            relaxation,
            lambda: blocks.over or job.proven,
            _teller(job),
            seconds_left=lambda: blocks.until - job.control.elapsed,
        )
    whole = job.budget()
    return relaxation.branching_model(lambda: whole.over)


def believed(problem: Problem, bound: float) -> float:
    """A relaxation's bound as far as it can be believed, rounded up where the objective takes whole values only."""
    return safe_bound(bound, integral=is_integral(problem))


def _teller(job: Job) -> Callable[[float], None]:
    return lambda bound: job.incumbents.raise_bound(believed(job.problem, bound))
