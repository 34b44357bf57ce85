"""What is tried before and instead of branching: descents from many starts, exact steps, and kicks that leave a valley.

A short descent and one refinement give a good answer in a tenth of a second on small blocks; longer descents follow,
then kicks improve what is there. Kicks that gain nothing go on in another valley, and then in the best one again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array
from solver_service.milp.network.programs.multistart import batch_size, descend, starts
from solver_service.milp.network.programs.sequential import fits, refine
from solver_service.milp.network.step_incumbents import BlockIncumbents

GAIN = 1e-4
"""An improvement by less than this part is none."""
STALE = 8
"""Kicks in a row without a gain after which the next ones begin elsewhere."""
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


@dataclass(frozen=True, eq=False)
class Valley:
    """Where kicks begin: a step, its objective, the round in which it last improved, and whether it is the best's."""

    step: Array
    value: float
    improved: int
    best: bool


class Rounds:
    """The rounds of one search, one after another."""

    def __init__(self, given: Search) -> None:
        self._given, self._valley, self._number = given, _best(given, 0), 0

    def next(self) -> None:
        """One round more."""
        self._valley = _round(self._given, self._number, self._valley)
        self._number += 1


def search(given: Search, patience: int) -> None:
    """Improve the incumbent until `patience` rounds gain nothing, or as many as the last gain took to come."""
    rounds, gained = Rounds(given), 0
    for number in range(given.budget.rounds):
        if given.done or number - gained > max(patience, gained):
            return
        before = given.incumbents.objective
        rounds.next()
        if given.incumbents.objective < before * (1 - GAIN):
            gained = number
            given.incumbents.tell("a round of linear programs", passing=True)


def _round(given: Search, number: int, valley: Valley) -> Valley:
    """One descent, or one kick refined; where the next round begins."""
    if number < len(OPENING):
        _descend(given, OPENING[number], own=number == 0)
        return _best(given, number)
    if not fits(given.network):
        _descend(given, LATER, own=False)
        return valley
    if number - valley.improved > STALE:
        if not valley.best:
            return _best(given, number)
        step, value = _descend(given, LATER, own=False)
        return Valley(step, value, number, best=False)
    step, value = _refine(given, _kicked(valley.step, given.rng))
    if value < valley.value * (1 - GAIN):
        return Valley(step, value, number, valley.best)
    return valley


def _best(given: Search, number: int) -> Valley:
    return Valley(given.incumbents.step, given.incumbents.objective, number, best=True)


def _descend(given: Search, batch: Batch, *, own: bool) -> tuple[Array, float]:
    """One batch of descents, from the best so far too if `own`, and its best ones refined: the best of them."""
    network = given.network
    begin = starts(network, given.incumbents.step, batch_size(network, batch.starts), given.rng)
    if own:
        begin[0] = given.incumbents.step
    found = descend(network, given.goal, begin, rounds=batch.rounds, should_stop=lambda: given.budget.over)
    given.incumbents.offer(found.steps[0])
    best, value = found.steps[0], float(found.values[0])
    for step in found.steps[: batch.refined] if fits(network) else ():
        if given.done:
            break
        refined, reached = _refine(given, step)
        if reached < value:
            best, value = refined, reached
    return best, value


def _refine(given: Search, step: Array) -> tuple[Array, float]:
    refined, value = refine(given.network, given.goal, step, lambda: given.budget.over)
    given.incumbents.offer(refined)
    return refined, value


def _kicked(step: Array, rng: np.random.Generator) -> Array:
    """A step with some of its entries moved at random, by little or by much."""
    chosen = rng.random(step.size) < rng.choice(PARTS)
    moved = step + rng.choice(REACHES) * rng.uniform(-1, 1, step.size)
    return np.asarray(np.clip(np.where(chosen, moved, step), -1.0, 1.0))
