"""The search over a block and all tail layers that move: descents, fresh starts, unit replacement, and kicks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array
from solver_service.milp.network.descent import Descender, Descent
from solver_service.milp.network.evaluator import Evaluator
from solver_service.milp.network.initial import fresh, kicked
from solver_service.milp.network.replacement import replace_unit, replaceable
from solver_service.milp.network.stand_ins import stand_in
from solver_service.milp.network.step_incumbents import BlockIncumbents

GAIN = 1e-6
"""An improvement by less than this part is none."""
OPENING = (10, 30, 100)
"""Evaluations of the first descent, offered after each part, so that something good is there at once."""
EFFORT, FRESH_EFFORT = 150, 200
STALE, LOST = 12, 40
"""Rounds of a valley without a gain after which it may get a little worse, and after which it is left."""
WORSE = 0.02
TWICE = 0.3
"""How often two units are replaced at once."""


@dataclass(frozen=True, eq=False)
class Valley:
    """Where replacements begin: variables, the stand-in's value, and for how many rounds nothing was gained."""

    variables: Array
    value: float
    stale: int = 0


class JointSearch:
    """One search, a round at a time; `settled` says that nothing better can be found."""

    def __init__(
        self,
        network: Network,
        goal: Objective,
        incumbents: BlockIncumbents,
        budget: Budget,
        rng: np.random.Generator,
        settled: Callable[[], bool],
    ) -> None:
        self._network, self._goal, self._incumbents, self._rng = network, goal, incumbents, rng
        self.budget, self._settled = budget, settled
        self.evaluate = Evaluator(network, stand_in(goal, network.snapshot))
        self._descend = Descender(self.evaluate, lambda: budget.over, squares=self.evaluate.stand_in.squares)
        self._best = self._valley = Valley(np.zeros(0), np.inf)
        self._replaceable = bool(replaceable(self.evaluate))

    @property
    def done(self) -> bool:
        """True when nothing better can be found or no time is left."""
        return self.budget.over or self._settled()

    def open(self) -> None:
        """Descend from the best step so far, and offer what comes of it early and often."""
        begin = self.evaluate.scaling.variables(self._incumbents.step)
        for effort in OPENING:
            if self.done:
                return
            found = self._descend(begin, effort=effort)
            self._keep(found)
            begin = found.variables
        for _ in range(2):
            if not self.done:
                self._keep(self._descend(fresh(self.evaluate, self._rng), effort=FRESH_EFFORT))

    def round(self) -> float:
        """Replace a unit, or kick where none can be, in the present valley; the work in evaluations."""
        valley = self._valley
        target = valley.value * (1 + WORSE if valley.stale >= STALE else 1 - GAIN)
        target = min(target, self._best.value * (1 + WORSE)) if valley.stale >= STALE else target
        found = self._descend(self._altered(valley.variables), effort=EFFORT, target=target)
        self._keep(found)
        if found.value < target:
            improved = found.value < valley.value * (1 - GAIN)
            self._valley = Valley(found.variables, found.value, 0 if improved else valley.stale + 1)
        else:
            self._valley = replace(valley, stale=valley.stale + 1)
        if self._valley.stale > LOST:
            self._leave()
        return found.work

    def _altered(self, variables: Array) -> Array:
        if not self._replaceable:
            return kicked(self.evaluate, variables, self._rng)
        altered = replace_unit(self.evaluate, variables, self._rng)
        return replace_unit(self.evaluate, altered, self._rng) if self._rng.random() < TWICE else altered

    def _leave(self) -> None:
        """Go on in the best valley, or in a fresh one."""
        if self._valley.value > self._best.value * (1 + GAIN):
            self._valley = replace(self._best, stale=0)
            return
        found = self._descend(fresh(self.evaluate, self._rng), effort=FRESH_EFFORT)
        self._keep(found)
        self._valley = Valley(found.variables, found.value)

    def _keep(self, found: Descent) -> None:
        """Offer what is better by the objective itself, and remember what is best by the stand-in."""
        if found.value < self._best.value:
            self._best = Valley(found.variables, found.value)
            if self._valley.value > found.value:
                self._valley = self._best
        outputs = self.evaluate.outputs(found.variables).T.astype(np.float64)
        if self._goal.of_outputs(self._network.snapshot, outputs) < self._incumbents.objective:
            self._incumbents.offer(self.evaluate.scaling.step(found.variables))
