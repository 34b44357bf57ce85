"""What a user would do without GDSolver: the authors' model or the textbook one, given to SCIP or HiGHS as they are.

Models are filled by our own fast builders, which favours the peers: `quicksum` would cost them seconds more.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np
import scipy.sparse as sp
from pyscipopt import Eventhdlr
from pyscipopt.scip import PY_SCIP_EVENTTYPE as EVENT

from solver_service.milp.backends.highs import as_lp
from solver_service.milp.backends.scip import build
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.formulation.compact import columns_of, largest_shortfalls
from solver_service.milp.formulation.model import LinearModel, always
from solver_service.milp.formulation.rows import change_rows

EVERY_S = 0.1
"""Bounds are noted at most this often."""


@dataclass
class Trace:
    """What a solver said on its way: (seconds, change columns, claimed value), (seconds, bound), and how it ended."""

    began: float
    change_columns: int
    solutions: list[tuple[float, Array, float]] = field(default_factory=list)
    bounds: list[tuple[float, float]] = field(default_factory=list)
    built_s: float = 0.0
    seconds: float = 0.0
    proven: bool = False

    @property
    def now(self) -> float:
        """Seconds since the bytes were there."""
        return time.perf_counter() - self.began

    def found(self, columns: Array, claimed: float) -> None:
        """Note a solution."""
        self.solutions.append((self.now, np.array(columns[: self.change_columns]), claimed))

    def bounded(self, bound: float, *, always_note: bool = False) -> None:
        """Note a bound, unless one was noted a moment ago."""
        if abs(bound) < 1e19 and (always_note or not self.bounds or self.now > self.bounds[-1][0] + EVERY_S):
            self.bounds.append((self.now, bound))


def textbook_model(problem: Problem) -> LinearModel:
    """One M for all rows, computed from the data; no reduction, no scaling, no cut: what a textbook writes down.

    Ramp is `z + xi` as in Brooks (2011); linear objectives are the plain LP.
    """
    requirements = requirements_of(problem)
    columns = columns_of(problem, requirements)
    if requirements.style == "capped":  # the textbook does not look which samples can fail
        first = problem.columns + requirements.groups
        columns = type(columns)(columns.slack, first + np.arange(requirements.groups), first + requirements.groups)
    row = np.arange(requirements.rows)
    parts, lower, upper = [], np.zeros(columns.total), np.ones(columns.total)
    lower[: problem.columns] = -1.0
    for place, value in ((columns.slack, requirements.unit), (columns.give_up, float(requirements.big_m.max()))):
        if (place >= 0).any():
            own = place[requirements.group]
            parts.append(sp.csr_array((np.full(row.size, value), (row, own)), shape=(row.size, columns.total)))
    padding = sp.csr_array((row.size, columns.total - problem.columns))
    change = sp.csr_array(sp.hstack([change_rows(problem, requirements, np.ones(row.size)), padding]))
    objective = np.zeros(columns.total)
    for place in (columns.slack, columns.give_up):
        objective[place[place >= 0]] = requirements.cost[place >= 0]
    if requirements.style == "linear":
        upper[columns.slack] = largest_shortfalls(requirements)
    integer = np.zeros(columns.total, dtype=bool)
    integer[columns.give_up[columns.give_up >= 0]] = True
    matrix = sp.csr_array(sum(parts, start=change))
    sides = requirements.need - requirements.level
    nothing = np.full(row.size, np.inf)
    return LinearModel(objective, 0.0, matrix, sides, nothing, lower, upper, integer, problem.columns, always(row.size))


def run_scip(model: LinearModel, trace: Trace, *, time_s: float, seed: int) -> None:
    """SCIP with its default settings."""
    scip, variables = build(model)
    assert scip is not None, "nobody stops a peer while it builds"
    scip.setParam("randomization/randomseedshift", seed)
    scip.includeEventhdlr(_Watcher(trace, variables), "trace", "notes solutions and bounds")
    trace.built_s = trace.now
    scip.setParam("limits/time", max(0.0, time_s - trace.now))
    scip.optimizeNogil()
    if scip.getNSols():
        best = scip.getBestSol()
        trace.found(np.array([scip.getSolVal(best, v) for v in variables[: model.change_columns]]), scip.getObjVal())
    trace.bounded(float(scip.getDualbound()), always_note=True)
    trace.seconds, trace.proven = trace.now, scip.getStatus() == "optimal"


class _Watcher(Eventhdlr):
    def __init__(self, trace: Trace, variables: list[Any]) -> None:
        self.trace, self.variables = trace, variables

    def eventinit(self) -> None:
        self.model.catchEvent(EVENT.BESTSOLFOUND, self)
        self.model.catchEvent(EVENT.NODESOLVED, self)
        self.model.catchEvent(EVENT.LPSOLVED, self)

    def eventexit(self) -> None:
        self.model.dropEvent(EVENT.BESTSOLFOUND, self)
        self.model.dropEvent(EVENT.NODESOLVED, self)
        self.model.dropEvent(EVENT.LPSOLVED, self)

    def eventexec(self, event: Any) -> None:
        self.trace.bounded(float(self.model.getDualbound()))
        if event.getType() == EVENT.BESTSOLFOUND:
            best = self.model.getBestSol()
            columns = self.variables[: self.trace.change_columns]
            self.trace.found(
                np.array([self.model.getSolVal(best, variable) for variable in columns]),
                float(self.model.getSolObjVal(best)),
            )


def run_highs(model: LinearModel, trace: Trace, *, time_s: float, seed: int) -> None:
    """HiGHS with its default settings, on one thread."""
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (("output_flag", False), ("threads", 1), ("random_seed", seed)):
        highs.setOptionValue(option, value)
    highs.passModel(as_lp(model))
    trace.built_s = trace.now
    if model.integer.any():
        highs.cbMipImprovingSolution += lambda event: trace.found(
            np.array(event.data_out.mip_solution), float(event.data_out.objective_function_value)
        )
        highs.cbMipInterrupt += lambda event: trace.bounded(float(event.data_out.mip_dual_bound))
    highs.setOptionValue("time_limit", max(0.0, time_s - trace.now))
    highs.run()
    info, solution = highs.getInfo(), highs.getSolution()
    trace.proven = highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    if solution.value_valid:
        trace.found(np.asarray(solution.col_value), float(info.objective_function_value))
    bound = float(info.mip_dual_bound) if model.integer.any() else float(info.objective_function_value)
    if trace.proven or model.integer.any():
        trace.bounded(bound, always_note=True)
    trace.seconds = trace.now
