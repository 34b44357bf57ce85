"""The walk by line searches as a strategy of the schedule: when it is stuck, it is kicked from the incumbent."""

from dataclasses import dataclass

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

STEPS = 20
"""Line searches at a time, at most; fewer where each takes long."""
STUCK, STUCK_PER_ENTRY = 30, 1
"""Line searches in a row without a gain after which a kick comes: another place pays more than a longer stay."""
KICK, CHEAPER = 1.0, (0.1, 1.0)
"""A kick moves every entry by up to as much of its radius, and lets constraints be broken for a while at such a price:
the way back in often is another one."""
OFFER_EVERY_S = 0.05
"""How often a gain is handed on, so that recounting stays a small part of the time."""


@dataclass(eq=False)
class Walking:
    """A strategy: `advance` takes some steps and offers what they gained.

    One that `follows` goes on from what other searches find. Counts under constraints are won on plateaus, where a walk
    in good course is worth more than a better count in another place; it turns to the incumbent when it is stuck.
    """

    problem: Problem
    incumbents: Incumbents
    walk: Walk
    rng: np.random.Generator
    follows: bool = True
    reproducible: bool = False
    _followed: float = np.inf
    _idle: int = 0
    _closest: tuple[float, float] = (np.inf, np.inf)
    _nearest: Array | None = None

    def advance(self, budget: Budget) -> bool:
        """Take some steps, from the incumbent if the walk follows it and another search has found a better one."""
        best = self.incumbents.best.objective
        if self.follows and best < self._followed:
            self.walk.goto(self.incumbents.whole_change)
            self._followed, self._idle = best, 0
        began = budget.control.elapsed
        for _ in range(STEPS):
            late = budget.control.elapsed - began > OFFER_EVERY_S and not self.reproducible
            if budget.over or late:
                break
            before = self.walk.rank
            self.walk.random_step()
            self._idle = 0 if self.walk.rank != before else self._idle + 1
            self._remember()
        self._offer()
        if self._idle > STUCK + STUCK_PER_ENTRY * self.problem.columns:
            self._kick()
        return True

    def _offer(self) -> None:
        rank = self.walk.rank
        if rank.broken == 0 and rank.value < self.incumbents.best.objective:
            self.incumbents.offer_whole(self.walk.change)
            self._followed = min(self._followed, self.incumbents.best.objective)

    def _remember(self) -> None:
        """Keep what breaks constraints least, while nothing keeps them."""
        found = (self.walk.rank.broken, self.walk.rank.value)
        if found < self._closest and not self.incumbents.feasible:
            self._closest, self._nearest = found, self.walk.change

    def _kick(self) -> None:
        """Move everything a little from the best so far; what the constraints lose by it, the next steps mend."""
        base = self.incumbents.whole_change
        if not self.incumbents.feasible and self._nearest is not None:
            base = self._nearest
        # The square of a uniform number: mostly short, now and then far.
        reach = KICK * self.rng.random() ** 2
        self.walk.cheapen(self.rng.uniform(*CHEAPER))
        self.walk.goto(base + reach * self.problem.pace * self.rng.normal(size=base.shape))
        self._idle = 0
