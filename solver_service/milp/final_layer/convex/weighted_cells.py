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
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk

ROUNDS = 40
STEP, SLOWER, FASTER = 4.0, 0.7, 1.1
"""How far a multiplier goes for a share that is short by 1, and what the step is times after a change of side."""
ROOM = 1e-3
"""Shares are aimed at this much above what is asked: what sits on the line is lost to rounding."""
LARGEST = 7.0
"""No cell weighs more than e^7 times its own."""
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
    lines, change = MarginLines(problem, tally.cell), least.change
    sets = _sets(tally)
    walk = Walk(problem, tally, np.random.default_rng([job.spec.solver.seed, 2]))
    theta, step, before = np.zeros(len(sets)), np.full(len(sets), STEP), np.zeros(len(sets))
    for _ in range(ROUNDS):
        right = tally.gather(problem.weights * lines.right(problem.scores_at(change), lines.guard))
        lack = _lack(tally, sets, right)
        step *= np.where(lack * before < 0, SLOWER, FASTER)
        # Only a gap weighs a set down below its own weight: it may have to get worse.
        low = np.where(np.arange(len(sets)) < len(tally.least), 0.0, -LARGEST)
        moved = np.clip(theta + step * lack, low, LARGEST)
        if budget.over or np.abs(moved - theta).max() < SETTLED:
            return
        theta, before = moved, lack
        cost = problem.cost * np.exp(np.clip(theta @ sets, -LARGEST, LARGEST))[tally.cell]
        program, looks = ConvexProgram(problem, cost), itertools.count()
        # Not to the end: the multipliers have moved again before that would tell.
        change = program.minimise(*program.box, change, lambda: budget.over or next(looks) >= LOOKS, CLOSE).change  # noqa: B023
        if math.isinf(job.incumbents.offer(change)):
            _mend(job, walk, change)


def _mend(job: Job, walk: Walk, change: Array) -> None:
    """Move biases until the constraints are kept, and offer what comes of it."""
    walk.goto(change)
    for _ in range(MENDING):
        if walk.rank.broken == 0 or job.budget().over:
            break
        walk.bias_step()
    if walk.rank.broken == 0:
        job.incumbents.offer(walk.change)


def _sets(tally: Tally) -> Array:
    """Which cells are in which set [f, c]: first those of the floors, then the groups of each gap."""
    return np.concatenate([tally.floors, *(members for members, _ in tally.gaps)])


def _lack(tally: Tally, sets: Array, right: Array) -> Array:
    """By how much the share of right samples of each set [f] is too small (above 0) or has room (below 0)."""
    size = np.maximum(sets @ tally.total, 1e-300)
    shares = (sets @ right) / size
    first = len(tally.least)
    wanted = [tally.least / size[:first] + ROOM - shares[:first]]
    for members, most in tally.gaps:
        rates = shares[first : first + len(members)]
        # Both ends are drawn towards the band of width `most` around the middle; what is inside drifts back.
        middle, half = (rates.max() + rates.min()) / 2, max(0.0, most / 2 - ROOM)
        below, above = middle - half - rates, rates - middle - half
        wanted.append(np.where(rates < middle, below, -above))
        first += len(members)
    return np.concatenate(wanted)
