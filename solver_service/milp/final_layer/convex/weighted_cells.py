"""log_loss under floors and gaps: the convex program with cells that fall short weighted up, until they do not.

For multipliers theta of what the constraints ask of shares, the program

    min sum_n cost_n exp(sum_f theta_f [n in set f]) loss_n + l2 |W|^2

is convex, whatever the constraints count. A set whose share of right samples is too small has its theta raised, one
with room has it lowered (multiplicative weights, as in cost-sensitive reductions: Narasimhan et al. 2015). That costs a
few convex programs, each from where the last one ended, at sizes at which no model of the counts can be built. What a
minimum still breaks by a few samples, exact line searches along single biases mend.
"""

import itertools
import math

import numpy as np

from solver_service.milp.core.problem import Array
from solver_service.milp.final_layer.convex.program import ConvexProgram, Minimum
from solver_service.milp.final_layer.job import Job
from solver_service.milp.heuristics.walks.margin_lines import MarginLines
from solver_service.milp.heuristics.walks.multipliers import Multipliers
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk

ROUNDS = 40
CLOSE = 1e-4
"""The relative gap at which a weighted program counts as solved; the next one begins from there."""
LOOKS = 40
"""Values and gradients for each setting of the multipliers, at most."""
SETTLED = 1e-2
"""Multipliers that move less than this have found their place."""
MENDING = 40
"""Line searches after a minimum, at most."""


def search_weighted_cells(job: Job, least: Minimum, share: float = 1.0) -> None:
    """Offer the minima of weighted programs, from the one without constraints on; ends when the weights settle."""
    problem, tally = job.problem, Tally.of(job.problem)
    if not tally.asks:
        return
    budget = job.budget().share(share)
    lines, change = MarginLines(problem, tally), least.change
    walk = Walk(problem, tally, np.random.default_rng([job.spec.solver.seed, 2]))
    multipliers = Multipliers(tally)
    for _ in range(ROUNDS):
        right = lines.counted(problem.scores_at(change), lines.guard)
        if budget.over or multipliers.learn(right) < SETTLED:
            return
        cost = problem.cost * multipliers.factors[tally.cell]
        program, looks = ConvexProgram(problem, cost), itertools.count()
        # Not to the end: the multipliers have moved again before that would tell.
        change = program.minimise(*program.box, change, lambda: budget.over or next(looks) >= LOOKS, CLOSE).change  # noqa: B023
        if math.isinf(job.incumbents.offer(change)):
            _mend(job, walk, change)


def mend_minimum(job: Job, change: Array) -> None:
    """Offer what line searches make of the minimum without constraints: where it breaks them a little, that is near."""
    tally = Tally.of(job.problem)
    if tally.asks and not job.incumbents.feasible:
        _mend(job, Walk(job.problem, tally, np.random.default_rng([job.spec.solver.seed, 4])), change)


def _mend(job: Job, walk: Walk, change: Array) -> None:
    """Offer what becomes of a change that breaks the constraints by a few samples."""
    walk.goto(change)
    if walk.mend(MENDING, lambda: job.budget().over):
        job.incumbents.offer(walk.change)
