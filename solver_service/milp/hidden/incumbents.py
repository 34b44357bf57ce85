"""The best float32 weights of a block and its tail seen in a solve, recomputed, and reported as they improve."""

from shared.contracts import Incumbent
from shared.objectives import Objective
from solver_service.milp.control import Control, IncumbentFound
from solver_service.milp.hidden.network import Moved, Network
from solver_service.milp.problem import Array


class BlockIncumbents:
    """Keeps the best step; a tie keeps the older one. `start` is the objective at the snapshot's own weights."""

    def __init__(self, network: Network, goal: Objective, control: Control) -> None:
        self._network, self._goal, self._control = network, goal, control
        snapshot = network.snapshot
        self.history: list[Incumbent] = []
        self.start = goal.value(snapshot, snapshot.weight, snapshot.bias)
        self.objective = self.start
        self.moved = Moved(snapshot.weight, snapshot.bias, snapshot.tail)
        self.step: Array = self._zero()
        self._bound = 0.0

    def _zero(self) -> Array:
        return self._network.step_to(self._network.snapshot.weight, self._network.snapshot.bias)

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
        value = self._goal.value(self._network.snapshot, moved.weight, moved.bias, moved.tail)
        if value < self.objective:
            self.objective, self.moved, self.step = value, moved, step.copy()
            self._report(nodes)
        return value

    def _report(self, nodes: int) -> None:
        elapsed = self._control.elapsed
        self.history.append(Incumbent(t_s=elapsed, objective=self.objective, bound=self.bound))
        found = IncumbentFound(elapsed, self.objective, self.bound, nodes, self.moved.weight, self.moved.bias)
        self._control.on_incumbent(found)
