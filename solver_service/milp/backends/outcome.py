"""What any solver is asked for and answers, so that one can stand in for the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shared.contracts import SolveStatus
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Array
from solver_service.milp.formulation.model import LinearModel

OnSolution = Callable[[Array, float, int], None]
"""Called with a better solution's change columns, the solver's bound and its node count."""


class Guard:
    """Calls out from inside a solver, where no exception may pass: the first one is kept, and asks for the end."""

    def __init__(self, control: Control, on_solution: OnSolution) -> None:
        self._control, self._on_solution = control, on_solution
        self._error: Exception | None = None

    @property
    def wants_end(self) -> bool:
        """True once somebody asked for an end, or calling out failed."""
        return self._control.stopped or self._error is not None

    def hand_out(self, read: Callable[[], tuple[Array, float, int]]) -> None:
        """Read a solution, its bound and the nodes, and pass them on."""
        try:
            if self._error is None:
                self._on_solution(*read())
        except Exception as error:  # raised by `release`, once the solver has returned
            self._error = error

    def release(self) -> None:
        """Raise what was kept, now that the solver has returned."""
        if self._error is not None:
            raise self._error


@dataclass(frozen=True)
class MilpOptions:
    """Limits of one run: seconds, megabytes, nodes (None: any number), relative gap; seed; parameters by name.

    `find` asks the solver to look for solutions by heuristics of its own, where ours have none to start from;
    `root_rounds` is how often it may add cuts of its own at the root.
    """

    time_s: float
    memory_mb: float
    nodes: int | None = None
    gap: float = 0.0
    seed: int = 0
    find: bool = False
    root_rounds: int = 5
    params: Mapping[str, bool | int | float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a run ended: why, the solver's own dual bound, nodes, seconds of building, presolving and solving.

    `start_accepted` is False when the solver did not believe that the start is feasible.
    """

    status: SolveStatus
    bound: float
    nodes: int
    build_s: float
    presolve_s: float
    solve_s: float
    start_accepted: bool


class MilpSolver(Protocol):
    """Minimise a model from a start; solutions go to `on_solution` as they come."""

    def __call__(
        self,
        model: LinearModel,
        options: MilpOptions,
        control: Control,
        on_solution: OnSolution,
        start: Array | None = None,
    ) -> Outcome:
        """Run until done, out of budget or stopped."""
