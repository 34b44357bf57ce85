"""Smooth functions below mae, quantile, hinge and max_error, as near as asked for: their minima are bounds, too."""

import numpy as np
from scipy.special import expit, logsumexp, softmax

from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.final_layer.convex.smooth_losses import SmoothLoss


def rounded_loss(problem: Problem, cost: Array, width: float) -> SmoothLoss:
    """The objective with its kinks rounded off over some width, each sample at its cost [n]; nowhere above it."""
    if problem.objective.name == "max_error":
        return _soft_maximum(problem, width)
    if problem.objective.name != "hinge":
        return _rounded(problem, cost, width)
    if problem.snapshot.task == "classification":
        return _soft_hinge(problem, cost, width)
    return _soft_hinge_of_labels(problem, cost, width)


def _rounded(problem: Problem, cost: Array, width: float) -> SmoothLoss:
    """mae or quantile with the kink rounded off: the Moreau envelope, which is nowhere above it.

    `cost` [n] may be that of the samples that trimmed_mae keeps. Of f times the pinball loss of e = y - s (mae: f = 2
    and q = 1/2): `e^2 / (2 width)` where that is less steep than q above 0 and 1 - q below, and lines from there on; at
    most f width max(q, 1 - q)^2 / 2 is lost.
    """
    one_sided = problem.objective.name == "quantile"
    factor, q = (1.0, problem.objective.quantile) if one_sided else (2.0, 0.5)
    targets, column = problem.targets.astype(np.float64), factor * cost[:, None]

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        error = targets - scores
        steep = np.clip(error / width, q - 1.0, q)
        return float((column * steep * (error - width * steep / 2)).sum()), np.asarray(-column * steep)

    def curvature(scores: Array) -> tuple[Array, None]:
        steep = (targets - scores) / width
        return np.asarray(column / width * ((steep > q - 1.0) & (steep < q))), None

    return SmoothLoss(value_and_slope, curvature, factor / width)


def _soft_maximum(problem: Problem, width: float) -> SmoothLoss:
    """`width log(mean of exp(e / width))` over all errors from both sides; the largest is above it by at most the log
    of their number times the width."""
    targets = problem.targets.astype(np.float64)

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        error = (scores - targets) / width
        both = np.stack([error, -error])
        shares = softmax(both)
        return width * float(logsumexp(both) - np.log(both.size)), np.asarray(shares[0] - shares[1])

    return SmoothLoss(value_and_slope, None, 1.0 / width)


def _soft_hinge(problem: Problem, cost: Array, width: float) -> SmoothLoss:
    """`width log(mean of exp(a / width))` over a = 0 and the K - 1 shortfalls a_k = 1 - (s_y - s_k) / margin.

    The largest a is above it by at most width log K.
    """
    targets, rows, margin = problem.targets.astype(np.int64), np.arange(len(cost)), problem.objective.margin

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        short = (1.0 - (scores[rows, targets][:, None] - scores) / margin) / width
        short[rows, targets] = 0.0
        value = width * float(cost @ (logsumexp(short, axis=1) - np.log(scores.shape[1])))
        slope = softmax(short, axis=1)
        slope[rows, targets] -= 1.0  # the share of 0 less 1 is minus the sum of all others
        return value, cost[:, None] * slope / margin

    return SmoothLoss(value_and_slope, None, 0.5 / (width * margin**2))


def _soft_hinge_of_labels(problem: Problem, cost: Array, width: float) -> SmoothLoss:
    """The same of a = 0 and a = 1 - t / margin of each label."""
    side, margin = 2.0 * problem.targets.astype(np.float64) - 1.0, problem.objective.margin

    def value_and_slope(scores: Array) -> tuple[float, Array]:
        short = (1.0 - side * scores / margin) / width
        value = width * float(cost @ (np.logaddexp(0.0, short) - np.log(2.0)).sum(axis=1))
        return value, -cost[:, None] * side * expit(short) / margin

    return SmoothLoss(value_and_slope, None, 0.25 / (width * margin**2))
