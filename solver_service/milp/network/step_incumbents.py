"""The best float32 weights of a block and its tail seen in a solve, recomputed, and reported as they improve."""

import numpy as np

from shared.contracts import Incumbent
from shared.objectives import Objective
from solver_service.milp.core.control import Control, IncumbentFound
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array


class BlockIncumbents:
    """Keeps the best step; a tie keeps the older one. `start` is the objective at the snapshot's own weights."""

    def __init__(self, network: Network, goal: Objective, control: Control) -> None:
        self._network, self._goal, self._control = network, goal, control
        snapshot = network.snapshot
        self.history: list[Incumbent] = []
        self.start = goal.value(snapshot, snapshot.weight, snapshot.bias)
        self.objective = self.start
        self.step: Array = np.zeros(network.size)
        self.moved: Moved = network.moved(self.step)
        self._bound = 0.0

    @property
    def bound(self) -> float:
        """The best proven lower limit, never above the best value that was reached."""
        return min(self._bound, self.objective)

    def raise_bound(self, bound: float) -> None:
        """Take note of a proven lower limit."""
        self._bound = max(self._bound, bound)

    def offer(self, step: Array, *, nodes: int = 0) -> float:
        """Round a step [size] into the box, recompute, keep it if it is better; its recomputed objective."""
        moved = self._network.moved(step)
        tail = self._network.tail_with(moved)
        value = self._goal.value(self._network.snapshot, moved.weight, moved.bias, tail)
        if value < self.objective:
            self.objective, self.moved, self.step = value, moved, step.copy()
            self._report(nodes)
        return value

    def _report(self, nodes: int) -> None:
        elapsed = self._control.elapsed
        self.history.append(Incumbent(t_s=elapsed, objective=self.objective, bound=self.bound))
        self._control.on_incumbent(IncumbentFound(elapsed, self.objective, self.bound, nodes, self.moved))
