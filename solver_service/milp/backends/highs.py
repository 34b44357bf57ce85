"""The one place that knows HiGHS: linear programs that grow rows and keep their basis, and small MILPs."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import scipy.sparse as sp

from shared.contracts import SolveStatus
from solver_service.errors import SolverError
from solver_service.milp.backends.outcome import Guard, MilpOptions, OnSolution, Outcome
from solver_service.milp.backends.own_words import OwnWords
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.formulation.model import LinearModel


class LpStatus(StrEnum):
    """How a run of an LP ended."""

    OPTIMAL = "optimal"
    STOPPED = "stopped"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class LpPoint:
    """A run's end: how, the columns' values, and the rows' dual values (>= 0 for rows with a lower side).

    Values and duals mean something for OPTIMAL only; else the values are wherever the simplex was, or zeros.
    """

    status: LpStatus
    columns: Array
    duals: Array


STATUS = {
    highspy.HighsModelStatus.kOptimal: LpStatus.OPTIMAL,
    highspy.HighsModelStatus.kModelEmpty: LpStatus.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: LpStatus.INFEASIBLE,
    highspy.HighsModelStatus.kInterrupt: LpStatus.STOPPED,
    highspy.HighsModelStatus.kTimeLimit: LpStatus.STOPPED,
    highspy.HighsModelStatus.kIterationLimit: LpStatus.STOPPED,
    highspy.HighsModelStatus.kUnknown: LpStatus.FAILED,
    highspy.HighsModelStatus.kSolveError: LpStatus.FAILED,
}
PRIMAL, DUAL = 4, 1
FEASIBLE = 2
"""HiGHS's number for a solution that keeps everything; of an infeasible model it hands out zeros."""
STATM = Path("/proc/self/statm")
LP_OPTIONS: dict[str, bool | int | str] = {
    "threads": 1,
    "presolve": "off",
    "solver": "simplex",
    "simplex_scale_strategy": 0,  # columns are in units of the box and rows in units of their need: scaled already
}


class _Silent(highspy.Highs):
    """HiGHS without a word on stdout: its banner comes with the first call of a process, within the constructor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.setOptionValue("output_flag", False)

    def enableCallbacks(self) -> None:  # noqa: N802 - highspy's name
        """Called by highspy's constructor, before anybody else could set an option."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class LinearProgram:
    """min cost . x over rows `matrix x >= lower`, added as they are needed; every run starts from the last basis.

    `should_stop` is asked at every simplex iteration; a run then ends with STOPPED.
    """

    def __init__(self, cost: Array, lower: Array, upper: Array, *, should_stop: Callable[[], bool]) -> None:
        self._highs = _Silent()
        self._size = int(cost.size)
        self._begun = False
        for option, value in LP_OPTIONS.items():
            self._highs.setOptionValue(option, value)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self._size, 0
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, lower, upper
        self._highs.passModel(lp)
        self._highs.cbSimplexInterrupt += lambda event: event.interrupt(should_stop())

    def add_rows(self, matrix: sp.csr_array, lower: Array) -> None:
        """Add rows `matrix x >= lower`; the next run repairs them with the dual simplex."""
        upper = np.full(lower.size, highspy.kHighsInf)
        indices, starts = matrix.indices.astype(np.int32), matrix.indptr[:-1].astype(np.int32)
        self._highs.addRows(lower.size, lower, upper, int(matrix.nnz), starts, indices, matrix.data)
        self._highs.setOptionValue("simplex_strategy", DUAL)

    def delete_rows(self, rows: Index) -> None:
        """Take rows out; those behind them move up. The basis is kept where the rows were loose."""
        self._highs.deleteRows(int(rows.size), rows.astype(np.int32))

    def set_costs(self, cost: Array) -> None:
        """Replace all costs; the last basis stays feasible, so the next run goes on with the primal simplex."""
        self._highs.changeColsCost(self._size, np.arange(self._size, dtype=np.int32), cost)
        self._highs.setOptionValue("simplex_strategy", PRIMAL if self._begun else DUAL)

    def run(self) -> LpPoint:
        """Solve from the last basis; SolverError for an end that is no answer."""
        self._highs.run()
        self._begun = True
        status = STATUS.get(self._highs.getModelStatus())
        if status is None:
            raise SolverError(f"HiGHS ended an LP with {self._highs.getModelStatus()}")
        solution = self._highs.getSolution()
        columns = np.asarray(solution.col_value) if solution.value_valid else np.zeros(self._size)
        return LpPoint(status, columns, np.asarray(solution.row_dual))


def version() -> str:
    """HiGHS's own version."""
    return f"{highspy.HIGHS_VERSION_MAJOR}.{highspy.HIGHS_VERSION_MINOR}.{highspy.HIGHS_VERSION_PATCH}"


MILP_STATUS = {
    highspy.HighsModelStatus.kOptimal: SolveStatus.OPTIMAL,
    highspy.HighsModelStatus.kModelEmpty: SolveStatus.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: SolveStatus.INFEASIBLE,
    highspy.HighsModelStatus.kInterrupt: SolveStatus.INTERRUPTED,
    highspy.HighsModelStatus.kTimeLimit: SolveStatus.TIME_LIMIT,
    highspy.HighsModelStatus.kSolutionLimit: SolveStatus.NODE_LIMIT,
    highspy.HighsModelStatus.kMemoryLimit: SolveStatus.MEMORY_LIMIT,
    highspy.HighsModelStatus.kIterationLimit: SolveStatus.NODE_LIMIT,
}


def solve(
    model: LinearModel,
    options: MilpOptions,
    control: Control,
    on_solution: OnSolution,
    start: Array | None = None,
) -> Outcome:
    """Minimise with HiGHS's branch and bound; it has no memory limit of its own, so the process's is watched."""
    began = time.monotonic()
    highs = _milp(model, options)
    built = time.monotonic()
    if start is not None:
        values = highspy.HighsSolution()
        values.col_value = start.tolist()
        highs.setSolution(values)
    guard = Guard(control, on_solution)
    words = OwnWords(control)
    if control.is_logged:
        # Not the console: its option is what keeps HiGHS from writing to stdout.
        highs.setOptionValue("log_to_console", False)
        highs.setOptionValue("output_flag", True)
        highs.cbLogging += lambda event: words.add(event.message)

    def hand_out(event: Any) -> None:
        found = event.data_out
        values = np.array(found.mip_solution)[: model.change_columns]
        guard.hand_out(lambda: (values, float(found.mip_dual_bound), int(found.mip_node_count)))

    full = False

    def look_up(event: Any) -> None:
        nonlocal full
        full = full or _resident_mb() > options.memory_mb
        event.interrupt(full or guard.wants_end)

    highs.cbMipInterrupt += look_up
    highs.cbMipImprovingSolution += hand_out
    highs.setOptionValue("time_limit", max(0.0, options.time_s - (time.monotonic() - began)))
    highs.run()
    words.pass_on(last=True)
    status = MILP_STATUS.get(highs.getModelStatus())
    if status is None:
        raise SolverError(f"HiGHS ended a MILP with {highs.getModelStatus()}")
    guard.release()
    if full and status is SolveStatus.INTERRUPTED:
        status = SolveStatus.MEMORY_LIMIT
    info, solution = highs.getInfo(), np.asarray(highs.getSolution().col_value)
    if start is not None and status is SolveStatus.OPTIMAL and _is_worse_than_told(model, solution, info):
        # HiGHS now and then values a start better than it is once its presolve is through, and hands it back.
        left = replace(options, time_s=options.time_s - (time.monotonic() - began))
        return solve(model, left, control, on_solution)
    if solution.size and info.primal_solution_status == FEASIBLE:
        on_solution(solution[: model.change_columns], float(info.mip_dual_bound), int(info.mip_node_count))
    return Outcome(
        status=status,
        bound=float(info.mip_dual_bound),
        nodes=int(info.mip_node_count),
        build_s=built - began,
        presolve_s=0.0,
        solve_s=time.monotonic() - built,
        start_accepted=True,
    )


def _is_worse_than_told(model: LinearModel, solution: Array, info: Any) -> bool:
    """Whether an optimum is farther above its bound than tolerances can explain."""
    bound, value = float(info.mip_dual_bound), model.constant + float(model.objective @ solution)
    return value - bound > 1e-5 * (1.0 + abs(bound))


MIP_GAP = 1e-6
"""Relative and absolute gap at which HiGHS may call a small MIP solved; what it may be wrong by is taken off."""


def lower_limit(model: LinearModel, *, seconds: float, should_stop: Callable[[], bool]) -> float:
    """A lower limit of a small MIP with a lower side on every row, -inf where HiGHS comes to none in this time.

    Its dual bound, less what its gap and tolerances leave open: nodes that could gain no more than the gap are pruned.
    """
    highs = _Silent()
    settings: dict[str, bool | float | int] = {
        "threads": 1,
        "time_limit": max(0.0, seconds),
        "mip_rel_gap": MIP_GAP,
        "mip_abs_gap": MIP_GAP,
        "mip_heuristic_effort": 0.05,  # solutions only help to prune here
    }
    for option, value in settings.items():
        highs.setOptionValue(option, value)
    highs.passModel(as_lp(model))
    highs.cbMipInterrupt += lambda event: event.interrupt(should_stop())
    highs.run()
    if highs.getModelStatus() not in MILP_STATUS or highs.getModelStatus() is highspy.HighsModelStatus.kInfeasible:
        return -math.inf
    bound = float(highs.getInfo().mip_dual_bound)
    return bound - 10 * MIP_GAP * (1.0 + abs(bound)) if math.isfinite(bound) else -math.inf


def _resident_mb() -> float:
    """The memory that this process holds; 0 where the system does not say."""
    if not STATM.exists():
        return 0.0
    return int(STATM.read_text().split()[1]) * PAGESIZE / 1e6


def _milp(model: LinearModel, options: MilpOptions) -> highspy.Highs:
    highs = _Silent()
    settings = {
        "threads": 1,
        "mip_rel_gap": options.gap,
        "mip_abs_gap": 1e-9,
        "random_seed": options.seed,
    }
    if options.nodes is not None:
        settings["mip_max_nodes"] = min(options.nodes, 2**31 - 1)
    for option, value in settings.items():
        highs.setOptionValue(option, value)
    highs.passModel(as_lp(model))
    return highs


def as_lp(model: LinearModel) -> highspy.HighsLp:
    """The model in HiGHS's own terms."""
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = model.columns, model.rows
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = model.objective, model.lower, model.upper
    lp.row_lower_, lp.row_upper_ = model.row_lower, model.row_upper
    lp.offset_ = model.constant
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = model.matrix.indptr, model.matrix.indices
    lp.a_matrix_.value_ = model.matrix.data
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[int(integer)] for integer in model.integer]
    return lp
