"""Which solver a spec's `backend` names; a solver is imported when it is first asked for, and the log told of it."""

import time
from dataclasses import replace
from importlib import import_module
from typing import cast

import numpy as np

from shared.contracts import SolveStatus
from solver_service.errors import SolverError
from solver_service.milp.backends.outcome import MilpOptions, MilpSolver, OnSolution, Outcome
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Array
from solver_service.milp.formulation.model import LinearModel

MODULES = {"scip": "solver_service.milp.backends.scip", "highs": "solver_service.milp.backends.highs"}
NAMES = {"scip": "SCIP", "highs": "HiGHS"}
MOST_COEFFICIENT = 1e8
"""Rows with larger coefficients prove nothing: 1e-9 of them is more than the 1e-4 by which a sample has to be right."""
SECOND = {"scip": "highs", "highs": "scip"}


def milp_solver(backend: str) -> MilpSolver:
    """The backend's solve function; the other backend's where it breaks: numerical trouble is seldom that of both.

    The job's log hears of a model before, and of its end after. SolverError where both break.
    """

    def solve_by_either(
        model: LinearModel,
        options: MilpOptions,
        control: Control,
        on_solution: OnSolution,
        start: Array | None = None,
    ) -> Outcome:
        began = time.monotonic()
        try:
            return _solve_and_tell(backend, model, options, control, on_solution, start)
        except SolverError as error:
            left = options.time_s - (time.monotonic() - began)
            if control.stopped or left <= 0:
                raise
            control.say(str(error))
        # Parameters are the first one's own.
        second = replace(options, time_s=left, params={})
        return _solve_and_tell(SECOND[backend], model, second, control, on_solution, start)

    return solve_by_either


def _solve_and_tell(
    backend: str,
    model: LinearModel,
    options: MilpOptions,
    control: Control,
    on_solution: OnSolution,
    start: Array | None,
) -> Outcome:
    solve, name = cast(MilpSolver, import_module(MODULES[backend]).solve), NAMES[backend]
    size = f"{model.rows} rows, {model.columns} columns, {int(model.integer.sum())} of them integer"
    control.say(f"{name} begins: {size}, {options.time_s:.1f} s left")
    if _beyond_proof(model):
        outcome = _unproven(solve(model, options, control, lambda x, _, nodes: on_solution(x, -np.inf, nodes), start))
    else:
        outcome = solve(model, options, control, on_solution, start)
    unheard = "" if outcome.start_accepted else "; it did not believe the start"
    control.say(f"{name} ended: {outcome.status.value}, {outcome.nodes} nodes{unheard}", bound=outcome.bound)
    return outcome


def _beyond_proof(model: LinearModel) -> bool:
    """Whether a solver's tolerances are no longer small beside the coefficients of rows: it may cut off anything."""
    return bool(model.matrix.nnz) and float(np.abs(model.matrix.data).max()) > MOST_COEFFICIENT


def _unproven(outcome: Outcome) -> Outcome:
    """What is left of an outcome whose bound and whose claim to be complete cannot be believed."""
    claimed = outcome.status in (SolveStatus.OPTIMAL, SolveStatus.INFEASIBLE)
    return replace(outcome, bound=-np.inf, status=SolveStatus.GAP_REACHED if claimed else outcome.status)


def write_mps(model: LinearModel) -> bytes:
    """The model in MPS format, as SCIP writes it."""
    return bytes(import_module(MODULES["scip"]).mps(model))


def version(backend: str) -> str:
    """The backend's own version."""
    return str(import_module(MODULES[backend]).version())
