"""Inputs so large that float32 weights of the box's size have neighbours a margin apart: first, a box around 0.

With inputs of 1e9 and a radius of 1 all good weights are within 1e-6 of 0, where no solver's tolerance, which is
relative to the box, tells one from the other. There they are searched for in a box of their own, in units of its own.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shared.contracts import JobSpec
from shared.snapshot import Snapshot, regression_targets
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, Mask, radii
from solver_service.milp.core.solution import Solution

COARSE = 1e-4
"""How far rounding may move scores, in units of what the objective can tell apart, before it matters."""
SCORES = 1024.0
"""How large scores may get by any one input of the smaller box, in the same units; classes apart want large ones."""
SMALLER = 1 / 16
"""A box that is not smaller than this part of the job's is not worth a search of its own."""
SHARE = 0.25
Solve = Callable[[Snapshot, JobSpec, Control, Moved | None], Solution]


def start_near_zero(snapshot: Snapshot, spec: JobSpec, control: Control, solve: Solve) -> Moved | None:
    """What a search of the weights near to 0 finds, as a start for the job's; none where float32 is fine enough."""
    if not snapshot.is_final_identity or spec.constraints:
        return None
    largest = np.abs(snapshot.inputs).max(axis=0, initial=0.0).astype(np.float64)
    unit = _unit(snapshot, spec)
    coarse = _spacing(snapshot, spec) * largest > COARSE * unit
    box = _near_zero(snapshot, spec, SCORES * unit, largest)
    smaller = coarse & (box < SMALLER * radii(snapshot, spec)[:, :-1]) & (box > 0)
    columns = smaller.all(axis=0)
    if not columns.any():
        return None
    control.say(f"float32 is too coarse here for {int(columns.sum())} inputs: a box around 0 first")
    within = control.heard_by(lambda _: None)
    return solve(*_smaller(snapshot, spec, box, columns), within, None).moved


def _unit(snapshot: Snapshot, spec: JobSpec) -> float:
    """What scores are measured by: the margin, or the largest target."""
    if snapshot.task != "regression":
        return float(spec.goal.margin)
    return float(np.abs(regression_targets(snapshot)).max(initial=0.0)) or 1.0


def _spacing(snapshot: Snapshot, spec: JobSpec) -> Array:
    """How far apart float32 weights [h, d] of the size of the box's are."""
    size = np.maximum(np.abs(snapshot.weight), radii(snapshot, spec)[:, :-1])
    return np.spacing(size.astype(np.float32)).astype(np.float64)


def _near_zero(snapshot: Snapshot, spec: JobSpec, scores: float, largest: Array) -> Array:
    """Half-widths [h, d] of a box around 0 inside the job's, whose scores are not above these; 0 where it has no 0."""
    room = radii(snapshot, spec)[:, :-1] - np.abs(snapshot.weight)
    within = np.divide(scores, largest, out=np.full_like(largest, np.inf), where=largest > 0)
    return np.asarray(np.clip(room, 0.0, within))


def _smaller(snapshot: Snapshot, spec: JobSpec, box: Array, columns: Mask) -> tuple[Snapshot, JobSpec]:
    """The same job in the smaller box [h, d], which is around 0 in these columns [d] and the job's own elsewhere."""
    own = radii(snapshot, spec)
    radius = np.where(columns, box, own[:, :-1]).astype(np.float32)
    weight = np.where(columns, np.float32(0), snapshot.weight).astype(np.float32)
    bias_radius = None if snapshot.bias is None else own[:, -1].astype(np.float32)
    limits = spec.limits.model_copy(update={"time_s": SHARE * spec.limits.time_s})
    smaller = replace(snapshot, weight=weight, radius=radius, bias_radius=bias_radius)
    return smaller, spec.model_copy(update={"radius": None, "bias_radius": None, "limits": limits})
