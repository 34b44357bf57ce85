"""Single moves of weights that take few values, for any objective: iterated local search (Lourenco et al. 2003).

A move gives one weight another of its values, exchanges a nonzero for a zero, or shifts what is free by a little; it
stays where the value gets less. Where none does for long, a few weights go anywhere, and the search goes on from there;
it comes back if that was no use.
"""

from dataclasses import dataclass, field

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.heuristics.descents.weight_prices import WeightPrices
from solver_service.milp.heuristics.walks.discrete import Discrete
from solver_service.milp.rounding.incumbents import Incumbents

MOVES, LONGEST_S = 100, 0.05
"""Moves at a time, and how long they may take where a clock counts."""
PATIENCE = 3
"""Moves in a row without a gain, for each entry, after which some entries go anywhere."""
KICKED = (2, 6)
"""How many of them."""
EDGE = 1e-9
"""How far the kink of what movement costs is rounded off, in radii."""
FREE, DECADES = 0.15, 2.5
"""How often something free is shifted, and over how many decades, in radii."""


@dataclass(eq=False)
class ValueWalk:
    """A strategy: where the search is (`change` [h, c], its scores and its value), and the best place so far."""

    problem: Problem
    incumbents: Incumbents
    discrete: Discrete
    rng: np.random.Generator
    reproducible: bool
    _waited: int = 0
    _change: Array = field(init=False)
    _scores: Array = field(init=False)
    _value: float = np.inf
    _best: tuple[float, Array] | None = None

    def __post_init__(self) -> None:
        self._paid = WeightPrices.of(self.problem, 1.0)
        radius = self.problem.radius > 0
        self._stepped = np.argwhere(self.discrete.stepped & radius)
        self._free = np.argwhere(~self.discrete.stepped & ~self.discrete.counted & radius)
        self._counted = np.argwhere(~self.discrete.stepped & self.discrete.counted & radius)

    def advance(self, budget: Budget) -> bool:
        """Some moves, from the incumbent where that is better than all that was seen here."""
        if self._best is None or self.incumbents.best.objective < self._best[0]:
            self._goto(self.incumbents.whole_change)
            self._best, self._waited = (self._value, self._change), 0
        began = budget.control.elapsed
        for _ in range(MOVES):
            if budget.over or (not self.reproducible and budget.control.elapsed - began > LONGEST_S):
                break
            self._move()
        self._remember()
        if self._waited > PATIENCE * self.problem.columns:
            self._kick()
        return bool(len(self._stepped) or len(self._counted))

    def _goto(self, change: Array) -> None:
        self._change = self.discrete.settled(change)
        self._scores = self.problem.scores_at(self._change)
        self._value = self._worth(self._scores, self._change)

    def _worth(self, scores: Array, change: Array) -> float:
        return self.problem.loss(scores) + self._paid(change, EDGE)[0]

    def _move(self) -> None:
        draw = self.rng.random()
        if len(self._free) and draw < FREE:
            self._try([(*self._any(self._free), None)])
        elif len(self._stepped) and (draw < 0.5 or not len(self._counted)):
            unit, entry = self._any(self._stepped)
            choices = self.discrete.choices(unit, entry, self._change[unit, entry])
            if choices.size:
                self._try([(unit, entry, float(self.rng.choice(choices)))])
        elif len(self._counted):
            self._shift_or_exchange()

    def _any(self, places: np.ndarray) -> tuple[int, int]:
        unit, entry = places[self.rng.integers(len(places))]
        return int(unit), int(entry)

    def _shift_or_exchange(self) -> None:
        """Shift a counted weight; where it is 0 and no more may differ from that, a nonzero becomes 0 instead."""
        unit, entry = self._any(self._counted)
        steps: list[tuple[int, int, float | None]] = [(unit, entry, None)]
        zeros = self.discrete.zeros(self._change)
        if not self.discrete.free(zeros)[unit, entry]:
            nonzeros = np.argwhere(self.discrete.zeroable(self._change) & ~zeros)
            if not len(nonzeros):
                return
            other = self._any(nonzeros)
            steps.append((*other, float(self.discrete.zero[other])))
        self._try(steps)

    def _try(self, steps: list[tuple[int, int, float | None]]) -> None:
        """Give entries other values (None: shifted at random), and stay if that is better."""
        change, scores = self._change.copy(), self._scores.copy()
        for unit, entry, wanted in steps:
            value = change[unit, entry] + self.rng.normal() * 10.0 ** -self.rng.uniform(0, DECADES)
            value = float(np.clip(value, -1.0, 1.0)) if wanted is None else wanted
            moved = self.problem.radius[unit, entry] * (value - change[unit, entry])
            scores[:, unit] += self.problem.inputs[:, entry] * moved
            change[unit, entry] = value
        self._waited += 1
        found = self._worth(scores, change)
        if found < self._value:
            self._change, self._scores, self._value, self._waited = change, scores, found, 0

    def _remember(self) -> None:
        assert self._best is not None, "a walk has begun somewhere"
        if self._value < self._best[0]:
            self.incumbents.offer_whole(self._change)
            self._best = self._value, self._change

    def _kick(self) -> None:
        """From the best place a few entries go anywhere."""
        assert self._best is not None, "a walk has begun somewhere"
        change, self._waited = self._best[1].copy(), 0
        places = np.concatenate([self._stepped, self._counted])
        for unit, entry in places[self.rng.permutation(len(places))[: self.rng.integers(*KICKED)]]:
            change[unit, entry] = self.rng.uniform(-1.0, 1.0)
        self._goto(change)
