"""The best float32 weights seen anywhere in a solve, recomputed, and reported as they improve."""

from dataclasses import dataclass

from shared.contracts import Incumbent
from shared.snapshot import FloatArray
from solver_service.milp.control import Control, IncumbentFound
from solver_service.milp.problem import Array, Problem
from solver_service.milp.rounding import weights_of


@dataclass(frozen=True, eq=False)
class Candidate:
    """Weights of the block, and their recomputed objective."""

    weight: FloatArray
    bias: FloatArray | None
    objective: float


class Incumbents:
    """Keeps the best candidate; a tie keeps the older one. `bound` is the best proven lower limit so far.

    `start` is the objective at the snapshot's own weights.
    """

    def __init__(self, problem: Problem, control: Control, *, bound: float) -> None:
        self._problem, self._control = problem, control
        self._bound = bound
        self.history: list[Incumbent] = []
        snapshot = problem.snapshot
        value = problem.objective.value(snapshot, snapshot.weight, snapshot.bias)
        self.start = value
        self.best = Candidate(snapshot.weight, snapshot.bias, value)

    @property
    def bound(self) -> float:
        """The best proven lower limit, never above the best value that was reached."""
        return min(self._bound, self.best.objective)

    def raise_bound(self, bound: float) -> None:
        """Take note of a proven lower limit."""
        self._bound = max(self._bound, bound)

    def offer(self, change: Array, *, nodes: int = 0) -> float:
        """Round a change [h, d+1] into the box, recompute, keep it if it is better; its recomputed objective."""
        weight, bias = weights_of(self._problem, change)
        return self.offer_weights(weight, bias, nodes=nodes)

    def offer_weights(self, weight: FloatArray, bias: FloatArray | None, *, nodes: int = 0) -> float:
        """The same for float32 weights that are already inside the box."""
        value = self._problem.objective.value(self._problem.snapshot, weight, bias)
        if value < self.best.objective:
            self.best = Candidate(weight, bias, value)
            self._report(nodes)
        return value

    def _report(self, nodes: int) -> None:
        elapsed, best = self._control.elapsed, self.best
        self.history.append(Incumbent(t_s=elapsed, objective=best.objective, bound=self.bound))
        self._control.on_incumbent(IncumbentFound(elapsed, best.objective, self.bound, nodes, best.weight, best.bias))
