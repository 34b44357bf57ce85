"""What this release can solve, said before a job is queued; importing it loads no solver."""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from shared.contracts import JobSpec, SolverOptions
from shared.errors import ErrorCode, SpecError
from shared.snapshot import Snapshot

PARAMETERS = Path(__file__).with_name("scip_parameters.json")
REFUSED = ("limits/", "parallel/", "lp/threads", "randomization/", "concurrent/", "timing/", "misc/catchctrlc")
"""Parameters that are the service's own business; the job's `limits` and `seed` stand for them."""
KINDS = {"bool": (bool,), "int": (int,), "longint": (int,), "real": (int, float)}

OF_BLOCKS = ("zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers")
"""The objectives that blocks before the output layer are solved for."""

Entry = tuple[str, float | None, float | None]


def check_supported(snapshot: Snapshot, spec: JobSpec) -> None:
    """Raise SpecError, naming the field, for what this release cannot do or SCIP would not take."""
    if not snapshot.is_final_identity:
        _check_block(snapshot, spec)
    if spec.moves_tail and not snapshot.tail:
        raise SpecError("there is no tail to move; leave it at 0", field="tail_radius")
    if spec.solver.formulation == "reference":
        _check_reference(snapshot, spec)
    check_parameters(spec.solver)


def check_parameters(solver: SolverOptions) -> None:
    """Raise SpecError unless every parameter is on the committed list, of its type and in its range."""
    if solver.params and solver.backend != "scip":
        _refuse(f"parameters are SCIP's; the backend is {solver.backend}", "solver.params")
    for name, value in solver.params.items():
        field = f"solver.params.{name:.100}"
        if name.startswith(REFUSED):
            raise SpecError("this parameter belongs to the service; use `limits` and `solver.seed`", field=field)
        entry = parameters().get(name)
        if entry is None:
            raise SpecError("not a numeric or boolean parameter of this SCIP", field=field)
        _check_value(value, entry, field)


@lru_cache(maxsize=1)
def parameters() -> dict[str, Entry]:
    """SCIP's numeric and boolean parameters: name -> (type, lowest, highest)."""
    return {name: (kind, low, high) for name, (kind, low, high) in json.loads(PARAMETERS.read_text()).items()}


def _check_block(snapshot: Snapshot, spec: JobSpec) -> None:
    """Blocks with an activation or a tail take some tasks and objectives, and not the authors' formulation."""
    if snapshot.task not in ("classification", "regression"):
        _refuse(f"{snapshot.task} goes with the output layer only; send the scores of two classes", "objective")
    if spec.objective not in OF_BLOCKS:
        _refuse(f"{spec.objective} goes with the output layer only; use one of {', '.join(OF_BLOCKS)}", "objective")
    if spec.solver.formulation == "reference":
        _refuse("the reference formulation is for the output layer only; use compact", "solver.formulation")


def _check_value(value: bool | int | float, entry: Entry, field: str) -> None:
    kind, low, high = entry
    if type(value) not in KINDS[kind]:
        raise SpecError(f"{value!r}, expected {kind}", field=field)
    inside = (low is None or value >= low) and (high is None or value <= high)
    if not (inside and math.isfinite(value)):
        raise SpecError(f"{value!r}, expected {low} to {high}", field=field)


def _check_reference(snapshot: Snapshot, spec: JobSpec) -> None:
    if spec.objective != "zero_one" or snapshot.task != "classification":
        _refuse("the reference formulation knows zero_one of classes only; use compact", "solver.formulation")
    if spec.constraints:
        _refuse("the reference formulation takes no constraints; use compact", "solver.formulation")
    if spec.solver.backend != "scip":
        _refuse("the reference formulation has indicators, which only scip takes", "solver.backend")


def _refuse(detail: str, field: str) -> NoReturn:
    raise SpecError(detail, field=field, code=ErrorCode.NOT_SUPPORTED)
