"""The search over a block and all tail layers that move: descents, fresh starts, unit replacement, and kicks."""

from dataclasses import dataclass, replace

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array
from solver_service.milp.network.descent import Descender, Descent
from solver_service.milp.network.evaluator import Evaluator
from solver_service.milp.network.fitting import fit
from solver_service.milp.network.initial import fresh, kicked
from solver_service.milp.network.replacement import replace_unit, replaceable
from solver_service.milp.network.scaling import Scaling
from solver_service.milp.network.stand_ins import SOFTNESS, stand_in
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
SHARPEST = 1e-4


@dataclass(frozen=True, eq=False)
class Valley:
    """Where replacements begin: variables, the stand-in's value, and for how many rounds nothing was gained."""

    variables: Array
    value: float
    stale: int = 0


class JointSearch:
    """One search, a round at a time."""

    def __init__(
        self,
        network: Network,
        goal: Objective,
        incumbents: BlockIncumbents,
        budget: Budget,
        rng: np.random.Generator,
    ) -> None:
        self._network, self._goal, self._incumbents, self._rng = network, goal, incumbents, rng
        self._keeper, self._budget = incumbents.keeper, budget
        limits = (self._keeper.low, self._keeper.high) if self._keeper.constraints else None
        scaling = Scaling(network, limits)
        self._softness, self._importance = SOFTNESS, np.ones(network.snapshot.samples)
        self._evaluate = Evaluator(network, stand_in(goal, network.snapshot), scaling=scaling)
        self._best = self._valley = Valley(np.zeros(0), np.inf)
        self._replaceable = bool(replaceable(self._evaluate))

    def open(self) -> None:
        """Descend from the best step so far, and offer what comes of it early and often."""
        begin = self._evaluate.scaling.variables(self._incumbents.step)
        for effort in OPENING:
            if self._over():
                return
            found = self._descend(begin, effort)
            self._keep(found)
            begin = found.variables
        for _ in range(2):
            if not self._over():
                self._keep(self._descend(fresh(self._evaluate, self._rng), FRESH_EFFORT))
        self._follow_closer()

    def round(self) -> float:
        """Replace a unit, or kick where none can be, in the present valley; the work in evaluations."""
        valley = self._valley
        target = valley.value * (1 - GAIN)
        if valley.stale >= STALE:
            target = min(valley.value, self._best.value) * (1 + WORSE)
        found = self._descend(self._altered(valley.variables), EFFORT, target)
        self._keep(found)
        if found.value < target:
            improved = found.value < valley.value * (1 - GAIN)
            self._valley = Valley(found.variables, found.value, 0 if improved else valley.stale + 1)
        else:
            self._valley = replace(valley, stale=valley.stale + 1)
        if self._valley.stale > LOST:
            self._leave()
        return found.work

    def _over(self) -> bool:
        return self._budget.over

    def _descend(self, begin: Array, effort: int, target: float = np.inf) -> Descent:
        return Descender(self._evaluate, self._over)(begin, effort=effort, target=target)

    def _altered(self, variables: Array) -> Array:
        if not self._replaceable:
            return kicked(self._evaluate, variables, self._rng)
        altered = replace_unit(self._evaluate, variables, self._rng)
        return replace_unit(self._evaluate, altered, self._rng) if self._rng.random() < TWICE else altered

    def _leave(self) -> None:
        """Go on in the best valley, or in a fresh one; follow the objective more closely from now on."""
        self._follow_closer()
        if self._valley.value > self._best.value * (1 + GAIN):
            self._valley = replace(self._best, stale=0)
            return
        found = self._descend(fresh(self._evaluate, self._rng), FRESH_EFFORT)
        self._keep(found)
        self._valley = Valley(found.variables, found.value)

    def _keep(self, found: Descent) -> None:
        """Offer what is better by the objective itself, and remember what is best by the stand-in."""
        if found.value < self._best.value:
            self._best = Valley(found.variables, found.value)
            if self._valley.value > found.value:
                self._valley = self._best
        if self._keeper.rounds and found.value < self._incumbents.objective:
            found = fit(self._evaluate, self._keeper, found, self._over)
        outputs = self._evaluate.outputs(found.variables).T.astype(np.float64)
        if self._keeper.on_samples and self._keeper.shortfall(outputs) > 0:
            self._importance = self._keeper.importance(outputs, self._importance)
            self._refresh()
        elif self._goal.of_outputs(self._network.snapshot, outputs) < self._incumbents.objective:
            self._incumbents.offer(self._evaluate.scaling.step(found.variables))

    def _follow_closer(self) -> None:
        """Round the objective's kinks off less, now that the errors are smaller."""
        if self._evaluate.stand_in.squares or not self._best.variables.size:
            return
        self._softness = max(SHARPEST, 0.5 * self._softness)
        self._refresh()

    def _refresh(self) -> None:
        """Follow the stand-in for the present softness and importance; values of before mean nothing any more."""
        importance = self._importance if self._keeper.on_samples else None
        snapshot = self._network.snapshot
        changed = stand_in(self._goal, snapshot, softness=self._softness, importance=importance)
        self._evaluate = self._evaluate.following(changed)
        self._best = replace(self._best, value=self._evaluate.value(self._best.variables))
        self._valley = replace(self._valley, value=self._evaluate.value(self._valley.variables))
