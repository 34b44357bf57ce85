"""Which solver a spec's `backend` names; a solver is imported when it is first asked for."""

from importlib import import_module
from typing import cast

from solver_service.milp.backends.outcome import MilpSolver
from solver_service.milp.formulation.model import LinearModel

MODULES = {"scip": "solver_service.milp.backends.scip", "highs": "solver_service.milp.backends.highs"}


def milp_solver(backend: str) -> MilpSolver:
    """The backend's solve function."""
    return cast(MilpSolver, import_module(MODULES[backend]).solve)


def write_mps(model: LinearModel) -> bytes:
    """The model in MPS format, as SCIP writes it."""
    return bytes(import_module(MODULES["scip"]).mps(model))


def version(backend: str) -> str:
    """The backend's own version."""
    return str(import_module(MODULES[backend]).version())
