"""What a solve hands back, and how far a solver's bound can be believed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shared.contracts import JobResult
from shared.snapshot import FloatArray
from solver_service.errors import SolverError
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Problem

TOLERANCE = 1e-6
"""Solvers meet rows and integrality to this; a bound is lowered by as much before it is believed."""
BYTES_PER_NONZERO = 250
"""What a coefficient of the model costs in all, measured from its arrays to SCIP's copies of them."""
BREAKS = (SolverError, ArithmeticError, LookupError, ValueError, AssertionError, MemoryError)
"""What solvers, and arithmetic on numbers near the ends of float64, may end with: what was found until then stands."""
GAVE_UP = "the best weights until then are returned"


@dataclass(frozen=True, eq=False)
class Solution:
    """A job's result, and the weights it speaks of: float32, weight [h, d], bias [h] or None.

    `tail` holds the tail layers that may move by their wire names.
    """

    result: JobResult
    weight: FloatArray
    bias: FloatArray | None
    tail: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def moved(self) -> Moved:
        """The weights alone."""
        return Moved(self.weight, self.bias, self.tail)


def gave_up(error: Exception) -> str:
    """The note of a result that ended so."""
    words = str(error) if isinstance(error, SolverError) else f"{type(error).__name__} {error}".strip()
    return f"{words}; {GAVE_UP}"


def safe_bound(value: float, *, integral: bool) -> float:
    """A solver's bound as far as it can be believed: lowered by the tolerance, rounded up for whole counts."""
    if not math.isfinite(value):
        return 0.0
    lowered = value - TOLERANCE * max(1.0, abs(value))
    return float(math.ceil(lowered)) if integral else lowered


def is_integral(problem: Problem) -> bool:
    """True when the objective takes whole values only."""
    if any(constraint.type == "movement_cost" for constraint in problem.constraints):
        return False
    counts = problem.objective.name in ("zero_one", "outliers")
    return counts and bool((problem.cost == np.round(problem.cost)).all())
