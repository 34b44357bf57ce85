"""Which solver a spec's `backend` names; a solver is imported when it is first asked for."""

from importlib import import_module
from typing import cast

from solver_service.milp.backends.outcome import MilpSolver

MODULES = {"scip": "solver_service.milp.backends.scip", "highs": "solver_service.milp.backends.highs"}


def milp_solver(backend: str) -> MilpSolver:
    """The backend's solve function."""
    return cast(MilpSolver, import_module(MODULES[backend]).solve)


def version(backend: str) -> str:
    """The backend's own version."""
    return str(import_module(MODULES[backend]).version())
