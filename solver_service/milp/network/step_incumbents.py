"""The best float32 weights of a block and its tail seen in a solve, recomputed, and reported as they improve."""

import math

import numpy as np

from shared.contracts import Incumbent
from shared.objectives import Objective
from solver_service.milp.core.control import Control, IncumbentFound
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array
from solver_service.milp.network.keeping import Keeper


class BlockIncumbents:
    """Keeps the best step; a tie keeps the older one. `start` is the objective at the snapshot's own weights.

    Only weights that keep all constraints are taken; where the snapshot breaks one, it stands in at an infinite value
    until the first feasible weights replace it. Rounding to zeros or a grid may lead away from a step: `step` is then
    the one to the rounded weights.
    """

    def __init__(self, network: Network, goal: Objective, control: Control, keeper: Keeper) -> None:
        self._network, self._goal, self._control, self.keeper = network, goal, control, keeper
        snapshot = network.snapshot
        self.history: list[Incumbent] = []
        began = control.elapsed
        self.start = goal.value(snapshot, snapshot.weight, snapshot.bias)
        self.seconds = control.elapsed - began
        """What it takes to recompute the objective once."""
        self.step: Array = np.zeros(network.size)
        self.moved: Moved = network.moved(self.step)
        self.start_keeps = keeper.keeps(self.moved, network.tail_with(self.moved))
        self.objective = self.start if self.start_keeps else math.inf
        self._bound = 0.0

    @property
    def feasible(self) -> bool:
        """Whether the best weights keep all constraints."""
        return math.isfinite(self.objective)

    @property
    def bound(self) -> float:
        """The best proven lower limit, never above the best value that was reached."""
        return min(self._bound, self.objective)

    def tell(self, what: str, *, passing: bool = False) -> None:
        """Say in the job's log what was done, and the best values after it."""
        self._control.say(what, objective=self.objective, bound=self.bound, passing=passing)

    def raise_bound(self, bound: float) -> None:
        """Take note of a proven lower limit."""
        self._bound = max(self._bound, bound)

    def offer(self, step: Array, *, nodes: int = 0) -> float:
        """Round a step [size] into the box, recompute, keep it if it is better; its recomputed objective.

        Infinite where the weights break a constraint.
        """
        moved = self.keeper.fitted(self._network.moved(step))
        tail = self._network.tail_with(moved)
        value = self._goal.value(self._network.snapshot, moved.weight, moved.bias, tail) + self.keeper.price(moved)
        if value < self.objective and self.keeper.keeps(moved, tail):
            self.objective, self.moved = value, moved
            self.step = self._network.step_to(moved) if self.keeper.constraints else step.copy()
            self._report(nodes)
            return value
        return value if value >= self.objective else math.inf

    def _report(self, nodes: int) -> None:
        elapsed = self._control.elapsed
        self.history.append(Incumbent(t_s=elapsed, objective=self.objective, bound=self.bound))
        self._control.on_incumbent(IncumbentFound(elapsed, self.objective, self.bound, nodes, self.moved))
