"""The best float32 weights seen anywhere in a solve, recomputed, and reported as they improve."""

import math
from collections import deque
from dataclasses import dataclass

from shared.contracts import Incumbent
from shared.snapshot import FloatArray
from solver_service.milp.core.control import Control, IncumbentFound
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.presolve.aggregation import Aggregation, not_aggregated
from solver_service.milp.rounding.into_box import change_of, weights_of
from solver_service.milp.rounding.snapping import snapped

GOOD = 8
"""How many of the latest best candidates are kept, to see what they have in common."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Weights of the block, and their recomputed objective; infinite where they break a constraint."""

    weight: FloatArray
    bias: FloatArray | None
    objective: float


class Incumbents:
    """Keeps the best candidate; a tie keeps the older one. `bound` is the best proven lower limit so far.

    Changes of models come in, and `change` goes out, in the space that an aggregation leaves once there is one; those
    of searches that need no model (`offer_whole`, `whole_change`) are of the whole space.

    `start` is the objective at the snapshot's own weights. Only weights that keep all constraints are taken; where the
    snapshot breaks one, it stands in at an infinite value until the first feasible weights replace it.
    """

    def __init__(self, problem: Problem, control: Control) -> None:
        self._problem, self._control = problem, control
        # Until columns are aggregated, changes of models are those of the whole space.
        self._aggregation = not_aggregated(problem)
        self._bound = 0.0
        self.history: list[Incumbent] = []
        snapshot = problem.snapshot
        value = problem.value_at_start
        self.start = value
        start_fits = problem.feasible(snapshot.weight, snapshot.bias)
        self.best = Candidate(snapshot.weight, snapshot.bias, value if start_fits else math.inf)
        self.good = deque([self.best] if start_fits else [], maxlen=GOOD)

    @property
    def feasible(self) -> bool:
        """Whether the best candidate keeps all constraints."""
        return math.isfinite(self.best.objective)

    @property
    def bound(self) -> float:
        """The best proven lower limit, never above the best value that was reached."""
        return min(self._bound, self.best.objective)

    def tell(self, what: str, *, passing: bool = False) -> None:
        """Say in the job's log what was done, and the best values after it."""
        self._control.say(what, objective=self.best.objective, bound=self.bound, passing=passing)

    def raise_bound(self, bound: float) -> None:
        """Take note of a proven lower limit."""
        self._bound = max(self._bound, bound)

    def aggregate(self, aggregation: Aggregation) -> None:
        """From now on changes of models are of this smaller space."""
        self._aggregation = aggregation

    @property
    def change(self) -> Array:
        """The change of the models' space that leads nearest to the best candidate."""
        return self._aggregation.lower(self.whole_change)

    @property
    def whole_change(self) -> Array:
        """The change [h, d+1] of the whole space that leads nearest to the best candidate."""
        return change_of(self._problem, self.best.weight, self.best.bias)

    def offer(self, change: Array, *, nodes: int = 0) -> float:
        """Round a change of the models' space into the box, recompute, keep what is better; its recomputed value."""
        return self._offer(self._aggregation.lift(change), nodes)

    def offer_whole(self, change: Array) -> float:
        """The same for a change [h, d+1] of the whole space."""
        return self._offer(change, nodes=0)

    def offer_near(self, weight: FloatArray, bias: FloatArray | None) -> float:
        """The same for what is nearest inside the box to weights that may be outside."""
        return self._offer(change_of(self._problem, weight, bias), nodes=0)

    def offer_weights(self, weight: FloatArray, bias: FloatArray | None, *, nodes: int = 0) -> float:
        """The same for float32 weights that are already inside the box; infinite where they break a constraint."""
        value = self._problem.value(weight, bias)
        if self._problem.constraints and not self._problem.feasible(weight, bias):
            return math.inf
        # Strictly better: of equal ones the older one stays, and nothing is reported twice.
        if value < self.best.objective:
            self.best = Candidate(weight, bias, value)
            self.good.append(self.best)
            self._report(nodes)
        return value

    def _offer(self, change: Array, nodes: int) -> float:
        weight, bias = weights_of(self._problem, change)
        return self.offer_weights(snapped(self._problem, weight), bias, nodes=nodes)

    def _report(self, nodes: int) -> None:
        elapsed, best = self._control.elapsed, self.best
        self.history.append(Incumbent(t_s=elapsed, objective=best.objective, bound=self.bound))
        moved = Moved(best.weight, best.bias)
        self._control.on_incumbent(IncumbentFound(elapsed, best.objective, self.bound, nodes, moved))
