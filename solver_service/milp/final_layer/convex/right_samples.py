"""log_loss under constraints on samples: from weights that keep them towards the minimum, as far as they allow.

The constraints count, so they are not convex; but the set of weights that get a given set of samples right is. A
program that is made to pay for these samples, more and more, leads along its edge; lines between its solutions and the
best weights so far are searched for the last point that keeps all constraints.
"""

from dataclasses import replace

import numpy as np

from shared.objectives import EPSILON, Objective
from solver_service.milp.core.problem import Array
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.final_layer.convex.program import ConvexProgram, Minimum
from solver_service.milp.final_layer.convex.smooth_losses import SmoothLoss
from solver_service.milp.final_layer.job import Job
from solver_service.milp.rounding.into_box import change_of

ON_A_LINE = 24
"""Points that are tried on a line; more of them close to its far end."""
PRICES = (1.0, 10.0, 100.0, 1e3, 1e4)
"""What a sample pays for a margin that is short by one, squared, in units of the mean loss."""
ROOM = 1e-5


def search_right_samples(job: Job, program: ConvexProgram, least: Minimum) -> None:
    """Offer what is found on the way from the best weights so far to the minimum without constraints on samples."""
    budget = job.budget()
    _along(job, least.change)
    for price in PRICES:
        if budget.over or job.proven:
            return
        paying = _paying(job, price)
        lower, upper = program.box
        found = paying.minimise(lower, upper, _best(job), lambda: budget.over)
        job.incumbents.offer(found.change)
        _along(job, found.change)


def _best(job: Job) -> Array:
    best = job.incumbents.best
    return change_of(job.problem, best.weight, best.bias)


def _along(job: Job, end: Array) -> None:
    start, budget = _best(job), job.budget()
    for share in 1.0 - np.linspace(0.0, 1.0, ON_A_LINE, endpoint=False) ** 2:
        if budget.over:
            return
        before = job.incumbents.best.objective
        if job.incumbents.offer(start + share * (end - start)) < before:
            return


def _paying(job: Job, price: float) -> ConvexProgram:
    """The job's program, in which samples that are right pay for every margin that falls short: price (short)^2."""
    problem, program = job.problem, ConvexProgram(job.problem)
    rows = requirements_of(replace(problem, objective=Objective("zero_one")))
    right = np.ones(rows.groups, dtype=bool)
    right[rows.group[rows.values(problem, _best(job)) < EPSILON]] = False
    rows = rows.select(right[rows.group])
    plain, each = program.loss, price * (problem.weights / problem.weights.sum())[rows.sample]

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        value, slope = plain.value_and_slope(scores)
        padded = np.hstack([scores, np.zeros((len(scores), 1))])  # what unit -1 finds
        short = np.maximum(0.0, EPSILON + ROOM - padded[rows.sample, rows.plus] + padded[rows.sample, rows.minus])
        pull = np.zeros_like(padded)
        np.add.at(pull, (rows.sample, rows.plus), -2 * each * short)
        np.add.at(pull, (rows.sample, rows.minus), 2 * each * short)
        return value + float((each * short**2).sum()), slope + pull[:, :-1]

    most = plain.most_curvature + 2 * price
    program.loss = SmoothLoss(value_and_slope, None, most)
    return program
