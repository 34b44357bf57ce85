"""What descent follows and linear programs minimise in place of each objective: value and slope by the outputs."""

import numpy as np

from shared.objectives import EPSILON, Objective, margins, sample_weights
from shared.snapshot import Snapshot, regression_targets
from solver_service.milp.core.problem import Array, Mask

ON_THE_LINE = 1e-5
SHARPNESS = 30.0
"""How closely the smooth maximum follows the largest error."""


def slopes(goal: Objective, snapshot: Snapshot, outputs: Array) -> Array:
    """The derivative [b, n, K] of each objective's stand-in by the outputs [b, n, K]."""
    if snapshot.task == "classification":
        return _margin_slopes(goal, snapshot, outputs)
    error = outputs - regression_targets(snapshot)
    weight = sample_weights(snapshot)[:, None]
    match goal.name:
        case "mse":
            return np.asarray(2 * weight * error)
        case "max_error":
            size = np.abs(error) * (weight > 0)
            share = np.exp(SHARPNESS * (size / size.max(axis=(1, 2), keepdims=True).clip(1e-300) - 1))
            return np.asarray(np.sign(error) * share / share.sum(axis=(1, 2), keepdims=True))
        case "outliers":
            return np.asarray(np.sign(error) * weight * (np.abs(error) > (goal.tolerance or 0.0)))
    return np.asarray(np.sign(error) * weight)


def _margin_slopes(goal: Objective, snapshot: Snapshot, outputs: Array) -> Array:
    rows = np.arange(snapshot.samples)
    own = outputs[:, rows, snapshot.targets]
    rivals = outputs.copy()
    rivals[:, rows, snapshot.targets] = -np.inf
    rival = rivals.argmax(axis=2)
    margin = own - np.take_along_axis(rivals, rival[:, :, None], axis=2)[:, :, 0]
    hopeless = margin < -2 * goal.margin if goal.name != "hinge" else np.zeros_like(margin, dtype=bool)
    pull = -sample_weights(snapshot) * ((margin < goal.margin) & ~hopeless)
    found = np.zeros_like(outputs)
    np.put_along_axis(found, rival[:, :, None], -pull[:, :, None], axis=2)
    found[:, rows, snapshot.targets] += pull
    return found


def kept(goal: Objective, snapshot: Snapshot, outputs: Array) -> Mask:
    """Samples [n] that a convex stand-in fights for, at outputs [n, K]; capped objectives give up on the others.

    A solver's solutions sit exactly on the line, so a sample within its tolerance of it is still fought for.
    """
    match goal.name:
        case "zero_one" | "ramp":
            line = EPSILON if goal.name == "zero_one" else 0.0
            return np.asarray(margins(outputs, snapshot.targets) >= line - ON_THE_LINE)
        case "outliers":
            error = np.abs(outputs - regression_targets(snapshot)).max(axis=1)
            return np.asarray(error <= (goal.tolerance or 0.0) + ON_THE_LINE)
    return np.ones(snapshot.samples, dtype=bool)
