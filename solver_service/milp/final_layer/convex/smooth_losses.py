"""The smooth convex objectives by the scores: value, slope and curvature, for programs that are no linear ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from shared.losses import cross_entropy, huber, logistic
from solver_service.milp.core.problem import Array, Problem

MOST_CURVATURE = {"mse": 2.0, "trimmed_mse": 2.0, "huber": 1.0, "log_loss": 0.5}
"""The second derivative of a loss by one score is never more, per unit of a sample's cost."""


@dataclass(frozen=True, eq=False)
class SmoothLoss:
    """A sum over samples: `value` and `slope` [n, h] at scores [n, h], and curvature for Newton's method.

    `curvature` [n, h] is the second derivative by each score. Of classes, whose scores depend on each other, it is the
    diagonal of `diag(curvature) - coupling coupling^T`, with `coupling` [n, h]; of all others there is no coupling.
    None keeps Newton's method off.
    """

    value_and_slope: Callable[[Array], tuple[float, Array]]
    curvature: Callable[[Array], tuple[Array, Array | None]] | None
    most_curvature: float
    coupled: bool = False


def smooth_loss(problem: Problem, cost: Array) -> SmoothLoss:
    """mse (also of trimmed_mse's kept samples), huber or log_loss, each sample at its cost [n]."""
    name, column = problem.objective.name, cost[:, None]
    if name == "log_loss":
        classes = problem.snapshot.task == "classification"
        return _of_classes(problem, cost) if classes else _of_labels(problem, column)
    targets = problem.targets.astype(np.float64)
    if name == "huber":
        return _huber(targets, column, problem.objective.delta)

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        error = scores - targets
        return float((column * error**2).sum()), np.asarray(2 * column * error)

    return SmoothLoss(
        value_and_slope,
        lambda scores: (np.broadcast_to(2 * column, scores.shape), None),
        MOST_CURVATURE[name],
    )


def of_multiples(loss: SmoothLoss, times: float) -> SmoothLoss:
    """The same loss of so many times the scores."""
    if times == 1:
        return loss

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        value, slope = loss.value_and_slope(times * scores)
        return value, times * slope

    def curvature(scores: Array) -> tuple[Array, Array | None]:
        assert loss.curvature is not None
        found, coupling = loss.curvature(times * scores)
        return times**2 * found, None if coupling is None else times * coupling

    return replace(
        loss,
        value_and_slope=value_and_slope,
        curvature=None if loss.curvature is None else curvature,
        most_curvature=times**2 * loss.most_curvature,
    )


def _huber(targets: Array, column: Array, delta: float) -> SmoothLoss:
    def value_and_slope(scores: Array) -> tuple[float, Array]:
        error = scores - targets
        return float((column * huber(error, delta)).sum()), np.asarray(column * np.clip(error, -delta, delta))

    def curvature(scores: Array) -> tuple[Array, None]:
        return np.asarray(column * (np.abs(scores - targets) <= delta)), None

    return SmoothLoss(value_and_slope, curvature, MOST_CURVATURE["huber"])


def _of_classes(problem: Problem, cost: Array) -> SmoothLoss:
    targets, rows, column = problem.targets.astype(np.int64), np.arange(len(cost)), cost[:, None]

    def shares(scores: Array) -> Array:
        found = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        slope = shares(scores)
        slope[rows, targets] -= 1.0
        return float(cost @ cross_entropy(scores, targets)), column * slope

    def curvature(scores: Array) -> tuple[Array, Array]:
        found = shares(scores)
        return column * found, np.sqrt(column) * found

    return SmoothLoss(value_and_slope, curvature, MOST_CURVATURE["log_loss"], coupled=True)


def _of_labels(problem: Problem, column: Array) -> SmoothLoss:
    side = 2.0 * problem.targets.astype(np.float64) - 1.0

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        t = side * scores
        return float((column * logistic(t)).sum()), np.asarray(-column * side * expit(-t))

    def curvature(scores: Array) -> tuple[Array, None]:
        found = expit(scores)
        return np.asarray(column * found * (1 - found)), None

    return SmoothLoss(value_and_slope, curvature, MOST_CURVATURE["log_loss"])
