"""Which bounds are proven when: conflicts between samples, their relaxation to the end, and blocks of samples."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from solver_service.milp.bounds.block_bound import raise_by_blocks
from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.bounds.relaxation import relax
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Problem
from solver_service.milp.core.solution import is_integral, safe_bound
from solver_service.milp.final_layer.job import Job
from solver_service.milp.formulation.compact import Cuts, compact_model, cuts_model
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.formulation.model import Extension, LinearModel
from solver_service.milp.formulation.rows import nonzeros

CONFLICTS_SHARE = 0.1
"""Of the time left, for what conflicts alone prove."""
RELAXATION_SHARE, EARLY_SHARE = 0.4, 0.1
"""Of the time left, for the relaxation; it seldom needs as much. Under constraints, of which better solutions come
after it: the first try."""
FEW_CONFLICTS = 0.25
"""Pairs in conflict for each sample, below which blocks are no help."""
PLAIN, PLAIN_SHARE = 1_000_000, 0.25
"""Without conflicts a model of so few coefficients is built whole; of the time left, for its relaxation."""
BLOCK_SHARE, COUNTS_BLOCK_SHARE = 0.85, 0.5
"""Of the time left after it, for blocks of a ramp's samples; of a count's, on which branching does better, only where
nobody branches."""
PATIENCE, UNSOLVED_PATIENCE = 0.5, 0.2
"""Share of the blocks' time without a gain after which they end; where the relaxation can go on instead."""
PAYS = 1e-3
"""Blocks are gathered anew if the relaxation, with rows of the last ones, raised the bound by such a share."""
BRANCHED_PER_S, BRANCHING_S = 60_000, 2.0
"""A solver that branches gets nowhere with more coefficients than this for each second, nor on a ramp in less time."""


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
    job.incumbents.tell(f"conflicts: {len(pool.groups)} between pairs of samples")
    return Conflicts(pool, pool.select(relaxation.used))


def bound_by_relaxation(job: Job, conflicts: Conflicts) -> LinearModel | None:
    """What the relaxation with all conflicts proves, and blocks of samples where that is more than branching does.

    Returns the model for branching, None where that would not come beyond its root; see `model_of`. Where hardly any
    samples are in conflict, the relaxation's duals say little, and a branching solver's own cuts do better.
    """
    paired = len(conflicts.pool.groups) >= FEW_CONFLICTS * job.screened.requirements.groups
    capped = job.screened.requirements.style == "capped"
    if capped and not paired and nonzeros(job.space, job.screened.requirements) <= PLAIN:
        return _plain(job, conflicts)
    relaxation = relaxed(job, conflicts)
    if capped:
        bound_by_blocks(job, relaxation, BLOCK_SHARE)
    elif not branching_pays(job):
        bound_by_blocks(job, relaxation, COUNTS_BLOCK_SHARE)
    # Branching begins with the relaxation's own program: what was not solved in its time is not solved in the rest.
    solved = relaxation.solved or job.spec.limits.nodes is not None
    return model_of(job, relaxation) if solved and branching_pays(job) else None


def _plain(job: Job, conflicts: Conflicts) -> LinearModel:
    """The compact model with the cuts that their own relaxation took; the rows of its relaxation lead."""
    requirements = job.screened.requirements
    model = compact_model(job.space, requirements, constant=job.screened.cost, cuts=conflicts.used)
    budget = job.budget().share(PLAIN_SHARE)
    relaxation = relax(model, lambda: budget.over)
    _teller(job)(relaxation.bound)
    job.incumbents.tell("relaxation without conflicts")
    return replace(model, leading=relaxation.used)


def relaxed(job: Job, conflicts: Conflicts, extension: Extension | None = None) -> PairRelaxation:
    """The relaxation with all conflicts, and with what constraints add; see `solve_relaxation`."""
    relaxation = PairRelaxation(
        job.space, job.screened.requirements, conflicts.pool, constant=job.screened.cost, extension=extension
    )
    solve_relaxation(job, relaxation, RELAXATION_SHARE if extension is None else EARLY_SHARE)
    return relaxation


def solve_relaxation(job: Job, relaxation: PairRelaxation, share: float = RELAXATION_SHARE) -> None:
    """Solve it to the end, or go on with that, if a share of the time that is left allows it."""
    if not (relaxation.solved or job.proven):
        budget = job.budget().share(share)
        relaxation.run(lambda: budget.over, _teller(job))
        job.incumbents.tell(f"relaxation with conflicts{'' if relaxation.solved else ', not solved to the end'}")


def bound_by_blocks(job: Job, relaxation: PairRelaxation, share: float) -> None:
    """Raise a relaxation's bound by blocks of samples for as long as they gain, solved to the end or not.

    They get a share of the time that is left. As they go by the clock, a job whose node limit asks for a reproducible
    run does without.
    """
    budget = job.budget().share(share)
    while not (budget.over or job.proven or job.spec.limits.nodes is not None):
        watch = _WhileGaining(job, budget, PATIENCE if relaxation.solved else UNSOLVED_PATIENCE)
        raise_by_blocks(relaxation, watch.over, watch.gained, seconds_left=watch.seconds_left)
        job.incumbents.tell("blocks of samples")
        before = relaxation.bound
        relaxation.run(lambda: budget.over or job.proven, _teller(job))
        job.incumbents.tell("relaxation with blocks")
        if relaxation.bound - before <= PAYS * abs(relaxation.bound):
            break


def model_of(job: Job, relaxation: PairRelaxation) -> LinearModel | None:
    """The compact model for branching, None when the time is over.

    The rows that were tight at the end lead, and every block that gained has left a row, so that a solver's first LP
    is at the relaxation's bound already.
    """
    budget = job.budget()
    return relaxation.branching_model(lambda: budget.over)


def branching_pays(job: Job) -> bool:
    """Whether there is enough time left for a branching solver to be of use."""
    if job.spec.limits.nodes is not None:
        return True
    left = job.deadline - job.control.elapsed
    if nonzeros(job.space, job.screened.requirements) > BRANCHED_PER_S * left:
        return False
    return job.screened.requirements.style != "capped" or left > BRANCHING_S


class _WhileGaining:
    """A budget that is also over once nothing was gained for a part of it."""

    def __init__(self, job: Job, budget: Budget, patience: float) -> None:
        self._job, self._budget, self._tell = job, budget, _teller(job)
        self._patience = patience * self.seconds_left()
        self._last = job.control.elapsed

    def over(self) -> bool:
        """Whether to stop: out of time, proven, or no gain for too long."""
        waited = self._job.control.elapsed - self._last
        return self._budget.over or self._job.proven or waited > self._patience

    def seconds_left(self) -> float:
        """What is left of the budget."""
        return self._budget.until - self._job.control.elapsed

    def gained(self, bound: float) -> None:
        """Take note of a gain."""
        self._last = self._job.control.elapsed
        self._tell(bound)
        self._job.incumbents.tell("a block of samples", passing=True)


def believed(problem: Problem, bound: float) -> float:
    """A relaxation's bound as far as it can be believed, rounded up where the objective takes whole values only."""
    return safe_bound(bound, integral=is_integral(problem))


def _teller(job: Job) -> Callable[[float], None]:
    return lambda bound: job.incumbents.raise_bound(believed(job.problem, bound))
