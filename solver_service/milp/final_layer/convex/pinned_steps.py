"""Single steps of weights that take few values each: the most promising ones are tried, as long as one helps."""

from collections.abc import Callable

import numpy as np

from shared.snapshot import FloatArray
from solver_service.milp.core.problem import Array
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.final_layer.job import Job
from solver_service.milp.rounding.into_box import change_of, weights_of
from solver_service.milp.rounding.snapping import inside, snapped

TRIES = 20
"""How many steps are tried in a row without a gain, before the search ends."""


def step_along(
    job: Job,
    program: ConvexProgram,
    change: Array,
    neighbours: Callable[[FloatArray], list[FloatArray]],
    over: Callable[[], bool],
) -> None:
    """Move one weight at a time to a neighbouring value, by predicted gain `g s + H s^2 / 2`, while that helps."""
    problem = job.problem
    weight, bias = weights_of(problem, change)
    weight = snapped(problem, weight)
    if not problem.feasible(weight, bias):
        return
    value, steep = job.incumbents.offer_weights(weight, bias), program.steepness()[:, :-1]
    while not over():
        _, gradient = program.smooth(change_of(problem, weight, bias))
        for moved, place in _promising(job, weight, gradient[:, :-1], steep, neighbours(weight)):
            if over():
                return
            tried = weight.copy()
            tried[place] = moved[place]
            found = job.incumbents.offer_weights(tried, bias)
            if found < value:
                weight, value = tried, found
                break
        else:
            return


def _promising(
    job: Job, weight: FloatArray, gradient: Array, steep: Array, options: list[FloatArray]
) -> list[tuple[FloatArray, tuple[int, int]]]:
    """The steps of the largest predicted gain, best first: the weights they are taken from, and their places."""
    radius = np.where(job.problem.radius[:, :-1] > 0, job.problem.radius[:, :-1], 1.0)
    gains = []
    for moved in options:
        step = (moved.astype(np.float64) - weight) / radius
        usable = (step != 0) & inside(job.problem, moved)
        gains.append(np.where(usable, gradient * step + steep * step**2 / 2, np.inf))
    flat = np.concatenate([gain.ravel() for gain in gains])
    best = np.argsort(flat, kind="stable")[:TRIES]
    chosen = [(int(entry // weight.size), int(entry % weight.size)) for entry in best if np.isfinite(flat[entry])]
    return [(options[option], divmod(entry, weight.shape[1])) for option, entry in chosen]
