"""What any solver is asked for and answers, so that one can stand in for the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shared.contracts import SolveStatus
from solver_service.milp.control import Control
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.problem import Array

OnSolution = Callable[[Array, float, int], None]
"""Called with a better solution's change columns, the solver's bound and its node count."""


@dataclass(frozen=True)
class MilpOptions:
    """Limits of one run: seconds, megabytes, nodes (None: any number), relative gap; seed; parameters by name."""

    time_s: float
    memory_mb: float
    nodes: int | None = None
    gap: float = 0.0
    seed: int = 0
    params: Mapping[str, bool | int | float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a run ended: why, the solver's own dual bound, nodes, seconds of presolving and in all.

    `start_accepted` is False when the solver did not believe that the start is feasible.
    """

    status: SolveStatus
    bound: float
    nodes: int
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
