"""The recipe for mse, huber and log_loss: a convex program, and a search around it where constraints ask for more."""

from dataclasses import replace

import scipy

from shared.constraints import ON_SAMPLES
from shared.contracts import Backend, SolveStatus
from solver_service.milp.core.budget import Budget
from solver_service.milp.final_layer.convex.branching import Branching
from solver_service.milp.final_layer.convex.cutting_planes import Tangents
from solver_service.milp.final_layer.convex.program import ConvexProgram, Minimum
from solver_service.milp.final_layer.convex.right_samples import search_right_samples
from solver_service.milp.final_layer.convex.splicing import splice
from solver_service.milp.final_layer.convex.weighted_cells import mend_minimum, search_weighted_cells
from solver_service.milp.final_layer.infeasible import blame
from solver_service.milp.final_layer.job import Job, allowance, ending_of, why
from solver_service.milp.final_layer.report import Ending
from solver_service.milp.final_layer.under_constraints import solve_constrained
from solver_service.milp.heuristics.walks.random_steps import search_by_random_steps
from solver_service.milp.rounding.into_box import change_of
from solver_service.milp.rounding.snapping import PINNING

ROOM_FOR_BOUND = 1e-9
TANGENTS_PATIENCE = 3
"""Rounds of tangents in a row without a better bound or better weights, after which it is others' turn; then more."""
SEARCH_ROUNDS, PATIENCE_S = 3, 1.0
"""Rounds, or seconds, without a gain after which searches end."""
ROOT_SHARE, SPLICED_SHARE = 0.15, 0.5
"""Of the time, for a minimum without zeros where they are asked for; of what is left then, for supports of so many
nonzeros, before anything is branched on."""
STEPS_SHARE = 0.3
"""Of the time that is left, for random steps before tangents: rounding may spoil all that a model says."""
PRECISE_SHARE = 0.6
"""Of the time that is left, for descents that know of precisions: weights of whole classes say little about them."""
WEIGHTED_SHARE = 0.4
"""Of the time that is left, for programs with weighted cells, before anything else looks for feasible weights."""


def solve_smooth(job: Job) -> Ending:
    """Minimise, offer, and search where rounding to what constraints allow loses something."""
    began, problem, incumbents, budget = job.control.elapsed, job.problem, job.incumbents, job.budget()
    if budget.over:
        return _ended(job, why(job))
    types = {constraint.type for constraint in problem.constraints}
    program = ConvexProgram(problem)
    branching = Branching(job, program) if types.intersection(PINNING) else None
    lower, upper = branching.root if branching else program.box
    start = change_of(problem, incumbents.best.weight, incumbents.best.bias)
    # Where nonzeros are counted, those have to be found; their number says little in a minimum that has more.
    first = budget.share(ROOT_SHARE) if "max_nonzero" in types else budget
    least = program.minimise(lower, upper, start, lambda: first.over)
    incumbents.raise_bound(least.bound * (1 - ROOM_FOR_BOUND))
    incumbents.offer(least.change)
    incumbents.tell("convex program")
    on_samples = bool(types.intersection(ON_SAMPLES))
    ending = replace(_ended(job, why(job)), solve_s=job.control.elapsed - began)
    if branching is not None and not _done(job):
        splice(job, program, least.change, job.budget().share(SPLICED_SHARE))
    if branching is not None and on_samples:
        branching.fit(least)
    if on_samples and not _done(job):
        ending = _with_shares(job, program, least, ending, plain=branching is None)
    if branching is not None and not _done(job):
        done = branching.run(least, certain=not on_samples)
        incumbents.tell(f"branching on single weights: {branching.nodes} nodes")
        if done and not (incumbents.feasible or on_samples):
            notes = tuple(blame(problem.snapshot, job.spec, job.budget()))
            return replace(_ended(job, SolveStatus.INFEASIBLE), notes=notes)
        ending = replace(ending, nodes=branching.nodes, solve_s=job.control.elapsed - began)
    if incumbents.feasible:
        ending = replace(ending, status=why(job))
    return replace(ending, allowance=_ended(job, why(job)).allowance)


def _with_shares(job: Job, program: ConvexProgram, least: Minimum, ending: Ending, *, plain: bool) -> Ending:
    """Keep what is asked of shares of samples, then go down from there; `plain` where weights may take any value."""
    incumbents = job.incumbents
    if plain:
        mend_minimum(job, least.change)
    if any(constraint.type == "precision_floor" for constraint in job.problem.constraints):
        job.improver.run(job.budget().share(PRECISE_SHARE))
    if plain and not _done(job):
        search_weighted_cells(job, least, WEIGHTED_SHARE)
    if not incumbents.feasible:
        ending = solve_constrained(job)
    if incumbents.feasible:
        search_right_samples(job, program, least)
        incumbents.tell("search for the samples to get right")
    if incumbents.feasible and not _done(job):
        _step(job, job.budget().share(STEPS_SHARE))
    if incumbents.feasible and not _done(job):
        _by_tangents(job, program, least)
    return ending


def _by_tangents(job: Job, program: ConvexProgram, least: Minimum) -> None:
    """Tangents while they gain; what neither they nor programs find, other searches do, in turns with them."""
    tangents, patience = Tangents(job, program, [least.change]), TANGENTS_PATIENCE
    while not _done(job):
        tangents.run(patience)
        job.incumbents.tell("search by tangents")
        if not _done(job):
            job.improver.run(replace(job.budget(), rounds=SEARCH_ROUNDS, patience=PATIENCE_S))
            _step(job, job.budget())
        if tangents.done:
            return
        patience *= 2


def _step(job: Job, budget: Budget) -> None:
    search_by_random_steps(job.problem, job.incumbents, budget, job.spec.solver.seed)
    job.incumbents.tell("random steps")


def _done(job: Job) -> bool:
    """Whether the time is up, or the best value is as close to its bound as rounding lets it come."""
    close = job.incumbents.feasible and job.incumbents.best.objective - job.incumbents.bound <= allowance(job)
    return close or job.proven or job.budget().over


def _ended(job: Job, status: SolveStatus) -> Ending:
    return ending_of(job, status, backend=Backend(name="scipy", version=scipy.__version__))
