"""From a change in float64 to weights in float32 that are inside the box, whatever the rounding."""

import numpy as np

from shared.snapshot import FloatArray
from solver_service.milp.core.float32 import round_into_box
from solver_service.milp.core.problem import Array, Problem

ENTRIES_AT_ONCE = 1 << 20


def weights_of(problem: Problem, change: Array) -> tuple[FloatArray, FloatArray | None]:
    """The block's weight [h, d] and bias [h] after a change [h, d+1], rounded into the box."""
    snapshot = problem.snapshot
    step = problem.radius * np.clip(change, -1.0, 1.0)
    if problem.constraints:
        # Where signs cut the box, changes are from its centre, and steps from the snapshot's own weights.
        step[:, :-1] += problem.center[:, :-1] - snapshot.weight
    weight = round_into_box(
        snapshot.weight,
        step[:, :-1],
        problem.reach[:, :-1],
        floor=problem.floor[:, :-1],
        ceiling=problem.ceiling[:, :-1],
    )
    if snapshot.bias is None:
        return weight, None
    return weight, round_into_box(snapshot.bias, step[:, -1], problem.reach[:, -1])


def change_of(problem: Problem, weight: FloatArray, bias: FloatArray | None) -> Array:
    """The change [h, d+1] that leads nearest to these weights, clipped into the box."""
    snapshot = problem.snapshot
    step = np.zeros_like(problem.radius)
    step[:, :-1] = weight.astype(np.float64) - problem.center[:, :-1]
    if bias is not None and snapshot.bias is not None:
        step[:, -1] = bias.astype(np.float64) - snapshot.bias
    moved = np.divide(step, problem.radius, out=np.zeros_like(step), where=problem.radius > 0)
    return np.clip(moved, -1.0, 1.0)


def rounding_errors(problem: Problem, weight: FloatArray, bias: FloatArray | None) -> Array:
    """How far rounding these weights to float32 can have moved any of a sample's scores, [n]."""
    column = np.zeros(problem.units, dtype=np.float32) if bias is None else bias
    # A whole ulp [h, d+1], not half of one: a weight brought back into the box may be that far off.
    spacing = np.spacing(np.abs(np.hstack([weight, column[:, None]]))).astype(np.float64)
    movable = np.where(problem.radius > 0, spacing, 0.0).T
    found = np.empty(len(problem.inputs))
    rows = max(1, ENTRIES_AT_ONCE // max(movable.shape))  # no copy of all inputs: they may be most of the memory
    for begin in range(0, len(found), rows):
        found[begin : begin + rows] = (np.abs(problem.inputs[begin : begin + rows]) @ movable).max(axis=1)
    return found
