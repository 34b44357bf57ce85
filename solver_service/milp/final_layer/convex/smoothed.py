"""mae, quantile, hinge and max_error by smooth programs: smoothed ever less, each time to its own bound."""

from collections.abc import Callable, Iterator

import numpy as np

from shared.losses import margins
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.final_layer.convex.program import ConvexProgram, Minimum
from solver_service.milp.final_layer.convex.rounded_losses import rounded_loss
from solver_service.milp.final_layer.job import Job
from solver_service.milp.rounding.into_box import change_of

SMOOTHED = ("mae", "quantile", "hinge")
ROUNDABLE = (*SMOOTHED, "max_error")
"""Those that a smooth program can stand in for; of a maximum it is a start alone."""
MAXIMUM = 0.1
"""How much less a maximum is rounded off than a mean: it loses the logarithm of how many errors there are."""
LARGE = 10_000
"""Coefficients N d h from which on a descent is faster than a linear program."""
BUILDING = 1e-6
"""Seconds that a coefficient of a linear program takes before the first step."""
WIDTHS = (0.3, 0.03, 0.003, 3e-4, 3e-5, 3e-6)
"""How far the kink is rounded off, in units of the mean error."""
PRECISE = 0.03
"""The gap to which each is solved, in units of its width."""


def descend_smoothed(job: Job) -> None:
    """Offer the minima of less and less smooth objectives, each of which is a bound, too."""
    best = change_of(job.problem, job.incumbents.best.weight, job.incumbents.best.bias)
    for least in minima(job.problem, job.problem.cost, best, lambda: job.budget().over):
        job.incumbents.offer_whole(least.change)
        job.incumbents.raise_bound(least.bound * (1 - 1e-9))
        job.incumbents.tell("a descent on the smoothed objective", passing=True)
        if job.proven:
            return


def minima(problem: Problem, cost: Array, change: Array, over: Callable[[], bool]) -> Iterator[Minimum]:
    """The minima of smoothed objectives, ever closer to the problem's own, over samples of some cost [n]."""
    for share in WIDTHS:
        program = None if over() else smoothed(problem, cost, change, share)
        if program is None:
            return
        least = program.minimise(*program.box, change, over, PRECISE * share)
        change = least.change
        yield least


def smoothed(problem: Problem, cost: Array, change: Array, share: float) -> ConvexProgram | None:
    """The program with kinks rounded off by a share of the errors at a change [h, c]; None where all are 0."""
    sizes = _sizes(problem, change)
    if problem.objective.name == "max_error":
        # The maximum does not look at costs; the program's own scale does, and has to be near to that of one sample.
        cost, size = np.full(cost.shape, 1.0 / cost.size), MAXIMUM * float(sizes.max())
    else:
        size = float(cost @ sizes / cost.sum())
    return None if size == 0 else ConvexProgram(problem, cost, rounded_loss(problem, cost, share * size))


def _sizes(problem: Problem, change: Array) -> Array:
    """Each sample's mean error, or hinge, after a change [h, c]."""
    scores, targets = problem.scores_at(change), problem.targets
    if problem.snapshot.task == "regression":
        return np.asarray(np.abs(scores - targets.astype(np.float64)).mean(axis=1))
    if problem.snapshot.task == "classification":
        t = margins(scores, targets)[:, None]
    else:
        t = (2.0 * targets.astype(np.float64) - 1.0) * scores
    return np.asarray(np.maximum(0.0, 1.0 - t / problem.objective.margin).mean(axis=1))


def is_large(job: Job) -> bool:
    """Whether a descent finds good weights long before a linear program does."""
    return _coefficients(job) > LARGE


def time_for_program(job: Job) -> bool:
    """Whether a linear program could be more than built in the time that is left."""
    return _coefficients(job) * BUILDING < (job.deadline - job.control.elapsed) / 4


def _coefficients(job: Job) -> int:
    return job.problem.inputs.size * job.problem.units
