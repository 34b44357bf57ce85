"""The one place that knows SCIP: a model in, incumbents and a bound out, and an end that anyone may call."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyscipopt.scip
import scipy.sparse as sp
from pyscipopt import Eventhdlr, Model
from pyscipopt.scip import PY_SCIP_EVENTTYPE as EVENT
from pyscipopt.scip import PY_SCIP_PARAMSETTING as SETTING

from shared.contracts import SolveStatus
from solver_service.errors import ServiceError, SolverError
from solver_service.milp.backends.outcome import Guard, MilpOptions, OnSolution, Outcome
from solver_service.milp.backends.own_words import LogFile, log_file
from solver_service.milp.backends.scip_rows import linear_rows
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.support import PARAMETERS, REFUSED

STATUS = {
    "optimal": SolveStatus.OPTIMAL,
    "gaplimit": SolveStatus.GAP_REACHED,
    "timelimit": SolveStatus.TIME_LIMIT,
    "nodelimit": SolveStatus.NODE_LIMIT,
    "totalnodelimit": SolveStatus.NODE_LIMIT,
    "memlimit": SolveStatus.MEMORY_LIMIT,
    "userinterrupt": SolveStatus.INTERRUPTED,
    "infeasible": SolveStatus.INFEASIBLE,
}
CANDIDATES, STRONG_STEPS = 20, 10_000
"""Of strong branching: candidates at a node, and simplex steps in any case. SCIP's own are 100 and 100,000."""
MEMORY_SHARE = 0.4
"""The process needs two to three times what SCIP counts."""
ENTRY = re.compile(
    r"^# \[type: (bool|int|longint|real), advanced: \w+, "
    r"range: [\[{](?:TRUE,FALSE|([^,\]]+),([^\]]+))[\]}].*\n(\S+) = ",
    re.MULTILINE,
)
"""One parameter in SCIP's own settings file."""
LINEAR_ROWS = linear_rows(pyscipopt.scip.__file__)
"""The fast way to add rows, where SCIP's own functions can be reached."""
STOP_EVENTS = EVENT.PRESOLVEROUND | EVENT.NODEFOCUSED | EVENT.LPSOLVED


def solve(
    model: LinearModel,
    options: MilpOptions,
    control: Control,
    on_solution: OnSolution,
    start: Array | None = None,
) -> Outcome:
    """Minimise with SCIP; SolverError when it ends in a state that is no answer."""
    began = time.monotonic()
    deadline = began + options.time_s
    with _in_words():
        scip, variables = build(model, lambda: control.stopped or time.monotonic() > deadline)
    if scip is None:
        return _unbegun(control)
    built = time.monotonic()
    _configure(scip, options)
    with _in_words():
        # Only a start that SCIP itself calls feasible is handed in.
        accepted = start is None or _give_start(scip, variables, start)
    guard = Guard(control, on_solution)
    with log_file(control, scip.setLogfile) as log, control.interruptible(scip.interruptSolve):
        watcher = _Watcher(guard, variables[: model.change_columns], log)
        scip.includeEventhdlr(watcher, "incumbents", "hands incumbents out and listens for a stop")
        scip.setParam("limits/time", max(0.0, deadline - time.monotonic()))
        with _in_words():
            scip.optimizeNogil()
    guard.release()
    status = STATUS.get(scip.getStatus())
    if status is None:
        raise SolverError(f"SCIP ended with status {scip.getStatus()!r}")
    return Outcome(
        status=status,
        bound=-np.inf if status is SolveStatus.INFEASIBLE else _finite(scip.getDualbound()),
        nodes=int(scip.getNTotalNodes()),
        build_s=built - began,
        presolve_s=float(scip.getPresolvingTime()),
        solve_s=float(scip.getSolvingTime()),
        start_accepted=accepted,
    )


@contextmanager
def _in_words() -> Iterator[None]:
    """The binding has no class of its own for what SCIP cannot deal with."""
    try:
        yield
    except (ServiceError, MemoryError):
        raise
    except Exception as error:
        raise SolverError(f"SCIP gave up: {error}") from error


def mps(model: LinearModel) -> bytes:
    """The model as a file of format MPS."""
    scip, _ = build(model)
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.mps")
        if scip is not None:
            scip.writeProblem(str(path), verbose=False)
        return path.read_bytes()


def version() -> str:
    """SCIP's own version."""
    scip = Model()
    return f"{scip.getMajorVersion()}.{scip.getMinorVersion()}.{scip.getTechVersion()}"


class _Watcher(Eventhdlr):
    """Hands incumbents and SCIP's log out, and looks for a stop that came before SCIP was there to be interrupted."""

    def __init__(self, guard: Guard, variables: list[Any], log: LogFile | None) -> None:
        self.guard, self.variables, self.log = guard, variables, log

    def eventinit(self) -> None:
        self.model.catchEvent(EVENT.BESTSOLFOUND, self)
        self.model.catchEvent(STOP_EVENTS, self)

    def eventexit(self) -> None:
        self.model.dropEvent(EVENT.BESTSOLFOUND, self)
        self.model.dropEvent(STOP_EVENTS, self)

    def eventexec(self, event: Any) -> None:
        if event.getType() == EVENT.BESTSOLFOUND:
            self.guard.hand_out(self._read)
        if self.log is not None:
            self.log.pump()
        if self.guard.wants_end:
            self.model.interruptSolve()

    def _read(self) -> tuple[Array, float, int]:
        best = self.model.getBestSol()
        values = np.array([self.model.getSolVal(best, variable) for variable in self.variables])
        return values, _finite(self.model.getDualbound()), int(self.model.getNTotalNodes())


def build(model: LinearModel, should_stop: Callable[[], bool] = bool) -> tuple[Model | None, list[Any]]:
    """A SCIP problem with SCIP's own settings, and its variables; None when it was stopped on the way."""
    scip, variables = _columns(model)
    finished = _add_rows(scip, model, variables, should_stop)
    return (scip if finished else None), variables


def _columns(model: LinearModel) -> tuple[Model, list[Any]]:
    scip = Model()
    scip.hideOutput()
    columns = (model.lower.tolist(), model.upper.tolist(), model.objective.tolist(), model.integer.tolist())
    variables = [
        scip.addVar(lb=lower, ub=upper, obj=cost, vtype=_kind(lower, upper) if integer else "C")
        for lower, upper, cost, integer in zip(*columns, strict=True)
    ]
    # In the objective, so that bounds and limits are those of the job.
    scip.addObjoffset(model.constant)
    return scip, variables


def _kind(lower: float, upper: float) -> str:
    """Binary or integer, by the bounds."""
    return "B" if lower >= 0 and upper <= 1 else "I"


def _add_rows(scip: Model, model: LinearModel, variables: list[Any], should_stop: Callable[[], bool]) -> bool:
    """Add all rows; False when it was stopped on the way."""
    # A row that waits costs nothing until a solution breaks it: several times more nodes in the same time.
    leading = np.ones(model.rows, dtype=bool) if model.leading is None else model.leading
    one_by_one = model.indicator >= 0 if LINEAR_ROWS else np.ones(model.rows, dtype=bool)
    if not _add_one_by_one(scip, model, variables, np.flatnonzero(one_by_one), leading, should_stop):
        return False
    if LINEAR_ROWS is None:
        return True
    plain = np.flatnonzero(~one_by_one)
    # SCIP's infinity is 1e20, not IEEE's.
    infinity = scip.infinity()
    lower, upper = (np.clip(side[plain], -infinity, infinity) for side in (model.row_lower, model.row_upper))
    addresses = np.array([variable.ptr() for variable in variables], dtype=np.uintp)
    rows = sp.csr_array(model.matrix[plain])
    return LINEAR_ROWS.add(scip.to_ptr(False), addresses, rows, (lower, upper), leading[plain], should_stop)


def _add_one_by_one(
    scip: Model, model: LinearModel, variables: list[Any], rows: Index, leading: Mask, should_stop: Callable[[], bool]
) -> bool:
    """Add rows through the binding, as those with an indicator have to be; False when it was stopped on the way."""
    if not rows.size:
        return True
    # A row is created on a fixed variable and filled afterwards: many times faster than building expressions.
    anchor = scip.addVar(lb=0.0, ub=0.0)
    matrix = model.matrix
    starts, columns, values = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
    for row in rows.tolist():
        if should_stop():
            return False
        constraint = _empty_row(scip, model, row, anchor, variables, leads=bool(leading[row]))
        for entry in range(starts[row], starts[row + 1]):
            scip.addCoefLinear(constraint, variables[columns[entry]], values[entry])
    return True


def _empty_row(scip: Model, model: LinearModel, row: int, anchor: Any, variables: list[Any], *, leads: bool) -> Any:
    """An empty row with its sides; one with an indicator holds only while that is 1."""
    lower, upper = float(model.row_lower[row]), float(model.row_upper[row])
    if model.indicator[row] >= 0:
        switch = scip.addConsIndicator(anchor <= upper, variables[model.indicator[row]])
        return scip.getLinearConsIndicator(switch)
    sided = anchor <= upper if np.isinf(lower) else anchor >= lower if np.isinf(upper) else lower <= (anchor <= upper)
    return scip.addCons(sided, initial=leads)


def _unbegun(control: Control) -> Outcome:
    """The end of a run that had no time to begin."""
    status = SolveStatus.INTERRUPTED if control.stopped else SolveStatus.TIME_LIMIT
    return Outcome(status, -np.inf, nodes=0, build_s=0.0, presolve_s=0.0, solve_s=0.0, start_accepted=True)


def _configure(scip: Model, options: MilpOptions) -> None:
    # The starts come from our own heuristics; here, proving is what the time is for.
    if not options.find:
        scip.setHeuristics(SETTING.OFF)
    # Less strong branching than SCIP does by itself: in the same time, more nodes prove more here.
    scip.setParam("branching/relpscost/initcand", CANDIDATES)
    scip.setParam("branching/relpscost/sbiterofs", STRONG_STEPS)
    # Cuts of its own at the root alone: at nodes they cost more than they prove here.
    scip.setParam("separating/maxroundsroot", options.root_rounds)
    scip.setParam("separating/maxrounds", 0)
    for name, value in options.params.items():
        scip.setParam(name, value)
    # In MB, as the job's limit is.
    scip.setParam("limits/memory", MEMORY_SHARE * options.memory_mb)
    # A job's gap g is (p - d) / p, SCIP's is (p - d) / d, which is g / (1 - g).
    scip.setParam("limits/gap", options.gap / (1 - options.gap) if options.gap < 1 else 1e20)
    scip.setParam("limits/nodes", -1 if options.nodes is None else options.nodes)
    scip.setParam("randomization/randomseedshift", options.seed)
    # In the log: a line for each hundredth node at most, whatever parameters say.
    scip.setParam("display/verblevel", min(4, int(scip.getParam("display/verblevel"))))
    scip.setParam("display/freq", max(100, int(scip.getParam("display/freq"))))
    scip.setParam("display/lpinfo", False)
    # Signals are the caller's business, who ends a solve by `interruptSolve`.
    scip.setParam("misc/catchctrlc", False)


def _give_start(scip: Model, variables: list[Any], start: Array) -> bool:
    """Add the start if SCIP's own check agrees that it is feasible."""
    solution = scip.createOrigSol()
    for variable, value in zip(variables, start.tolist(), strict=True):
        # Columns that are not set are 0.
        if value:
            scip.setSolVal(solution, variable, value)
    feasible = bool(scip.checkSol(solution, printreason=False, completely=False, original=True))
    if feasible:
        scip.addSol(solution)
    else:
        scip.freeSol(solution)
    return feasible


def _finite(bound: float) -> float:
    """SCIP's 1e20 is infinity."""
    return float(bound) if abs(bound) < 1e20 else float(np.copysign(np.inf, bound))


def live_parameters() -> dict[str, list[str | float | None]]:
    """The numeric and boolean parameters of the installed SCIP that a job may set: name -> [type, lowest, highest]."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "parameters.set")
        scip = Model()
        scip.hideOutput()
        with redirect_stdout(StringIO()):  # it announces the file
            scip.writeParams(str(path), comments=True, onlychanged=False)
        entries = ENTRY.findall(path.read_text())
    return {
        name: [kind, _number(low), _number(high)]
        for kind, low, high, name in sorted(entries, key=itemgetter(3))
        if not name.startswith(REFUSED)
    }


def _number(text: str) -> float | None:
    """A side of a range, None where there is none."""
    if not text:
        return None
    return float(text) if "." in text or "e" in text else int(text)


def _main(arguments: list[str]) -> int:
    if arguments != ["--write-parameters"]:
        print("usage: python -m solver_service.milp.backends.scip --write-parameters", file=sys.stderr)
        return 2
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in live_parameters().items()]
    PARAMETERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
