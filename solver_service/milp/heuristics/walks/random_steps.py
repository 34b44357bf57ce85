"""Random steps of single weights, or of some together, over many decades: for what rounding to float32 has lost.

A convex program ends at its optimum in float64. Where scores add up numbers whose float32 neighbours are far apart,
the rounded optimum can be far above it, and a better point of the grid is not near: small weights have close
neighbours, large ones have not. So the search begins from the least weights of the box, too.
"""

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.rounding.into_box import change_of

DECADES = 10.0
SHARES = (0.2, 0.5, 1.0)
"""Which part of the weights moves in a step."""
PLACES, SHORT_PATIENCE, SHORT_DECADES = 32, 200, 4.0
"""Random places of which the best is a start, and steps without a gain after which another one comes."""
PATIENCE = 1500
"""Steps in a row without a gain, after which it ends."""
TOO_LITTLE = 1e-6
"""A gain of less than this part of the value is none."""


def search_by_random_steps(problem: Problem, incumbents: Incumbents, budget: Budget, seed: int) -> None:
    """Steps in a random direction, doubled as long as that gains; from the least weights if these are as good."""
    least = _least_weights(problem, incumbents)
    start = least if incumbents.offer_whole(least) <= incumbents.best.objective else None
    step_at_random(problem, incumbents, budget, np.random.default_rng(seed), PATIENCE, start)


def step_at_random(
    problem: Problem,
    incumbents: Incumbents,
    budget: Budget,
    rng: np.random.Generator,
    patience: int,
    start: Array | None = None,
) -> None:
    """The steps alone, until so many in a row have gained nothing; from the best, or from a start as good as that."""
    waited = 0
    while waited < patience and not budget.over:
        before = incumbents.best.objective
        step = rng.uniform(-1, 1, problem.radius.shape) * 10.0 ** rng.uniform(-DECADES, 0)
        step *= rng.random(step.shape) < rng.choice(SHARES)
        while not budget.over:
            best = incumbents.best.objective
            incumbents.offer_whole((incumbents.whole_change if start is None else start) + step)
            if incumbents.best.objective >= best:
                break
            start, step = None, 2 * step
        waited = 0 if incumbents.best.objective < before * (1 - TOO_LITTLE) else waited + 1


def step_from_anywhere(
    problem: Problem, incumbents: Incumbents, budget: Budget, rng: np.random.Generator, starts: int
) -> None:
    """From the best of some random places, again and again: for values that jump, where no fit leads to the best."""
    best, waited = incumbents.best.objective, 0
    while waited < starts and not budget.over:
        _step_from_one(problem, incumbents, budget, rng)
        waited = 0 if incumbents.best.objective < best * (1 - TOO_LITTLE) else waited + 1
        best = incumbents.best.objective


def _step_from_one(problem: Problem, incumbents: Incumbents, budget: Budget, rng: np.random.Generator) -> None:
    shape, places = problem.radius.shape, []
    for _ in range(PLACES):
        place = rng.uniform(-1, 1, shape)
        places.append((incumbents.offer_whole(place), place))
    value, change = min(places, key=lambda found: found[0])
    waited = 0
    while waited < SHORT_PATIENCE and not budget.over:
        step = rng.normal(size=shape) * 10.0 ** rng.uniform(-SHORT_DECADES, 0)
        step *= rng.random(shape) < rng.choice((1.5 / step.size, *SHARES))
        waited += 1
        while step.any() and not budget.over:
            tried = np.clip(change + step, -1, 1)
            found = incumbents.offer_whole(tried)
            if found >= value:
                break
            value, change, waited, step = found, tried, 0, 2 * step


def _least_weights(problem: Problem, incumbents: Incumbents) -> Array:
    """The change [h, d+1] to the least weights in size that the box has, with the best bias."""
    best = incumbents.best
    return change_of(problem, np.zeros_like(best.weight), best.bias)
