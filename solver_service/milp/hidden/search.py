"""What is tried before and instead of branching: descents from many starts, exact steps, and kicks that leave a valley.

A short descent and one refinement give a good answer in a tenth of a second on small blocks; longer descents and
kicks of the best so far improve it for as long as they gain anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.objectives import Objective
from solver_service.milp.budget import Budget
from solver_service.milp.hidden.incumbents import BlockIncumbents
from solver_service.milp.hidden.multistart import batch_size, descend, starts
from solver_service.milp.hidden.network import Network
from solver_service.milp.hidden.sequential import fits, refine
from solver_service.milp.problem import Array

GAIN = 1e-4
"""An improvement by less than this part is none."""
DESCENT_EVERY = 8
REACHES, PARTS = (0.1, 0.3, 1.0), (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Batch:
    """A descent: from how many starts, for how many rounds, and how many of its best are refined."""

    starts: int
    rounds: int
    refined: int


FIRST = Batch(starts=16, rounds=40, refined=1)
LATER = Batch(starts=64, rounds=300, refined=3)
OPENING = (FIRST, LATER, LATER)


@dataclass(frozen=True, eq=False)
class Search:
    """The ingredients of one search; `settled` says that nothing better can be found."""

    network: Network
    goal: Objective
    incumbents: BlockIncumbents
    budget: Budget
    rng: np.random.Generator
    settled: Callable[[], bool]

    @property
    def done(self) -> bool:
        """True when nothing better can be found or no time is left."""
        return self.budget.over or self.settled()


def search(given: Search, patience: int) -> None:
    """Improve the incumbent until `patience` rounds gain nothing, or as many as the last gain took to come."""
    refines, gained = fits(given.network), 0
    for number in range(given.budget.rounds):
        if given.done or number - gained > max(patience, gained):
            return
        before = given.incumbents.objective
        if number < len(OPENING):
            _descend(given, OPENING[number], own=number == 0)
        elif number % DESCENT_EVERY == 0 or not refines:
            _descend(given, LATER, own=False)
        else:
            _refine(given, _kicked(given))
        if given.incumbents.objective < before * (1 - GAIN):
            gained = number


def _descend(given: Search, batch: Batch, *, own: bool) -> None:
    """One batch of descents, from the best so far too if `own`, and its best ones refined."""
    network = given.network
    begin = starts(network, given.incumbents.step, batch_size(network, batch.starts), given.rng)
    if own:
        begin[0] = given.incumbents.step
    found = descend(network, given.goal, begin, rounds=batch.rounds, should_stop=lambda: given.budget.over)
    given.incumbents.offer(found.steps[0])
    for step in found.steps[: batch.refined] if fits(network) else ():
        if not given.done:
            _refine(given, step)


def _refine(given: Search, step: Array) -> None:
    refined, _ = refine(given.network, given.goal, step, lambda: given.budget.over)
    given.incumbents.offer(refined)


def _kicked(given: Search) -> Array:
    """The best step so far with some of its entries moved at random, by little or by much."""
    best, rng = given.incumbents.step, given.rng
    chosen = rng.random(best.size) < rng.choice(PARTS)
    step = rng.choice(REACHES) * rng.uniform(-1, 1, best.size)
    return np.asarray(np.clip(np.where(chosen, best + step, best), -1.0, 1.0))
