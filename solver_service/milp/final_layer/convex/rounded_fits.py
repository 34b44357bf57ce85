"""hinge, mae, quantile and max_error where constraints speak of weights: smoothed minima, rounded, the rest refitted.

A smoothed program knows what movement costs, and its minimum takes milliseconds at sizes at which a model takes longer
to build. Rounding it to what constraints allow, and fitting all that is not decided by that once more, is a first
answer that searches by single lines or batches do not find; branching on the same programs improves it.
"""

from shared.constraints import ON_SAMPLES
from solver_service.milp.core.problem import Array
from solver_service.milp.core.solution import BREAKS, gave_up
from solver_service.milp.final_layer.convex.branching import Branching
from solver_service.milp.final_layer.convex.smoothed import PRECISE, ROUNDABLE, WIDTHS, smoothed
from solver_service.milp.final_layer.convex.splicing import LOOSE, splice, splice_counts
from solver_service.milp.final_layer.job import Job
from solver_service.milp.rounding.snapping import PINNING

FITTED_SHARE, BRANCHED_SHARE = 0.3, 0.4
"""Of the time, for minima and their rounded fits; of what is left then, for branching on them."""
SPLICED_SHARE, SPLICED_AT = 0.5, 0.1
"""Of the time, for supports of so many nonzeros, and the width at which they are sought."""
BRANCHED_AT = 0.003
"""The width at which is branched: near to the objective, and still smooth."""


def fit_rounded(job: Job) -> None:
    """Offer the minima of less and less smooth objectives, and what becomes of them where weights take few values."""
    types: set[str] = {constraint.type for constraint in job.problem.constraints}
    if job.problem.objective.name not in ROUNDABLE or not types.intersection((*PINNING, "movement_cost")):
        return
    try:
        _fit(job, types)
    except BREAKS as error:  # others go on from what was found until then
        job.control.say(f"rounded fits end: {gave_up(error)}")


def _spliced(job: Job, change: Array) -> Array:
    """Look for nonzeros by a program that is near to the objective; the minimum without zeros that it began with."""
    if job.problem.objective.name == "hinge":
        splice_counts(job)  # cross-entropy sees samples that a hinge cannot tell apart
        change = job.incumbents.whole_change
    problem, budget = job.problem, job.budget().share(SPLICED_SHARE)
    wide = smoothed(problem, problem.cost, change, SPLICED_AT)
    if wide is None:
        return change
    least = wide.minimise(*wide.box, change, lambda: budget.over, LOOSE).change
    program = smoothed(problem, problem.cost, least, SPLICED_AT)
    if program is not None:
        splice(job, program, least, budget)
    return least


def _fit(job: Job, types: set[str]) -> None:
    problem, incumbents = job.problem, job.incumbents
    budget, change = job.budget().share(FITTED_SHARE), incumbents.whole_change
    pinned, branched = bool(types.intersection(PINNING)), None
    if "max_nonzero" in types:
        change = _spliced(job, change)
        budget = job.budget().share(FITTED_SHARE)
    for share in WIDTHS:
        program = None if budget.over or job.proven else smoothed(problem, problem.cost, change, share)
        if program is None:
            break
        branching = Branching(job, program, lambda: budget.over) if pinned else None
        box = branching.root if branching else program.box
        least = program.minimise(*box, change, lambda: budget.over, PRECISE * share)
        incumbents.raise_bound(least.bound * (1 - 1e-9))
        incumbents.offer_whole(least.change)
        change = least.change
        if branching:
            branching.fit(least)
            if share >= BRANCHED_AT:
                branched = program, least
        incumbents.tell(f"a minimum smoothed by {share:g}, rounded", passing=True)
    if branched and not job.proven:
        program, least = branched
        later = job.budget().share(BRANCHED_SHARE)
        branching = Branching(job, program, lambda: later.over)
        branching.run(least, certain=not types.intersection(ON_SAMPLES))
        incumbents.tell(f"branching on a smoothed objective: {branching.nodes} nodes")
