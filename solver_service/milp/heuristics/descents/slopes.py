"""What a descent follows in place of each objective: slopes by the outputs, for several arms at once, in float32.

An arm has a *width*: how far from the line, in units of the objective's margin or tolerance, a sample still pulls. A
wide one is smooth and sees all samples, a narrow one is close to a count.
"""

from collections.abc import Callable

import numpy as np

from solver_service.milp.core.problem import Index, Problem
from solver_service.milp.heuristics.descents.single_precision import Singles

Slopes = Callable[[Singles, Index, Singles, Singles], Singles]
"""From outputs [b, a, h] of samples [b], with widths [a] and weights [b, a] of the arms, to slopes [b, a, h]."""
Losses = Callable[[Singles, Singles, Singles], float]
"""From outputs [n, 1, h] of all samples, the width [1] and weights [n, 1] to the stand-in's value."""
SHARPNESS = np.float32(30.0)
"""How closely the smooth maximum follows the largest error."""


def slopes_of(problem: Problem, unit: float) -> Slopes:
    """The stand-in of a problem's objective; outputs are in units of `unit`, and may be overwritten."""
    if problem.snapshot.task == "regression":
        return _errors(problem, unit)
    if problem.snapshot.task == "classification":
        return _margins(problem, unit)
    return _signs(problem, unit)


def _pull(name: str, margin: Singles, width: Singles, unit: float) -> Singles:
    """Minus the slope of a sample's loss by its margin [b, a]."""
    if name == "log_loss":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(margin * np.float32(unit), -60, 60))), dtype=np.float32)
    if name == "hinge":
        return (margin < 1.0).astype(np.float32)
    below = margin < width
    # A sample that is far on the wrong side is given up: it costs its all, wherever it goes.
    return np.where(below & (margin > 0), 1.0 / width, 0.0).astype(np.float32)


def _margins(problem: Problem, unit: float) -> Slopes:
    """Classes: each sample pulls its own class and its strongest rival apart."""
    targets, name = problem.targets.astype(np.int64), problem.objective.name

    def slopes(outputs: Singles, samples: Index, width: Singles, weights: Singles) -> Singles:
        rows, own = np.arange(len(samples)), targets[samples]
        if name == "log_loss":
            return _cross_entropy(outputs * np.float32(unit), own, weights)
        mine = outputs[rows, :, own].copy()
        outputs[rows, :, own] = -np.inf
        rival = outputs.argmax(axis=2)
        margin = mine - np.take_along_axis(outputs, rival[:, :, None], axis=2)[:, :, 0]
        pull = _pull(name, margin, width, unit) * weights
        # Minus the pull on the own class and plus on the strongest rival, nothing on others: [b, a, h].
        found = np.zeros_like(outputs)
        np.put_along_axis(found, rival[:, :, None], pull[:, :, None], axis=2)
        found[rows, :, own] = -pull
        return found

    return slopes


def _cross_entropy(outputs: Singles, own: Index, weights: Singles) -> Singles:
    # Softmax less 1 at the own class.
    shares = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    shares[np.arange(len(own)), :, own] -= 1.0
    return np.asarray(shares * weights[:, :, None])


def _signs(problem: Problem, unit: float) -> Slopes:
    """Independent labels: each one wants its output on its own side of 0."""
    sides = np.where(problem.targets.astype(np.float64).reshape(len(problem.scores), -1) > 0, 1.0, -1.0).astype(
        np.float32
    )
    name = problem.objective.name

    def slopes(outputs: Singles, samples: Index, width: Singles, weights: Singles) -> Singles:
        side = sides[samples][:, None, :]
        pull = _pull(name, outputs * side, width[None, :, None], unit)
        return np.asarray(-side * pull * weights[:, :, None])

    return slopes


def _errors(problem: Problem, unit: float) -> Slopes:
    """Regression: each output is drawn to its target, as strongly as the objective says."""
    with np.errstate(over="ignore"):
        wanted = np.clip(problem.targets.astype(np.float64) / unit, -1e15, 1e15).astype(np.float32)
    objective, tolerance = problem.objective, np.float32((problem.objective.tolerance or 0.0) / unit)

    def slopes(outputs: Singles, samples: Index, width: Singles, weights: Singles) -> Singles:
        error, wide = outputs - wanted[samples][:, None, :], width[None, :, None]
        match objective.name:
            # Slopes are right up to a factor, which Adam does not see.
            case "mse":
                slope = error
            case "outliers":
                beyond = np.abs(error) - tolerance
                # A ramp from the tolerance to a width beyond it; farther samples are given up.
                slope = np.sign(error) * ((beyond > 0) & (beyond < wide)) / wide
            case "max_error":
                size = np.abs(error)
                sharp = SHARPNESS / np.maximum(size.max(axis=(0, 2), keepdims=True), np.float32(1e-30))
                # Softmax over the batch's errors: nearly all weight on the largest.
                share = np.exp((size - size.max(axis=(0, 2), keepdims=True)) * sharp / wide)
                slope = np.sign(error) * share
            case "quantile":
                level = np.float32(objective.quantile)
                # The kink rounded off over a tenth of the width.
                slope = np.clip(error / (np.float32(0.1) * wide), -level, 1 - level)
            case "huber":
                delta = np.float32(objective.delta / unit)
                slope = np.clip(error, -delta, delta)
            case "trimmed_mse" | "trimmed_mae":
                size = np.abs(error).mean(axis=2, keepdims=True)
                # The batch's own largest errors are trimmed.
                kept = size <= np.quantile(size, 1 - objective.trim, axis=0, keepdims=True)
                slope = kept * (error if objective.name == "trimmed_mse" else np.clip(error / wide, -1, 1))
            case _:
                slope = np.clip(error / (np.float32(0.1) * wide), -1.0, 1.0)
        return np.asarray(slope * weights[:, :, None], dtype=np.float32)

    return slopes


def losses_of(problem: Problem, unit: float) -> Losses:
    """The capped stand-in itself, for one arm: what `slopes_of` has the slopes of; for classes and for outliers."""
    if problem.snapshot.task == "regression":
        wanted = (problem.targets.astype(np.float64) / unit).astype(np.float32)
        tolerance = np.float32((problem.objective.tolerance or 0.0) / unit)

        def errors(outputs: Singles, width: Singles, weights: Singles) -> float:
            beyond = (np.abs(outputs[:, 0, :] - wanted) - tolerance) / width
            return float((np.clip(beyond, 0.0, 1.0) * weights).sum(dtype=np.float64))

        return errors
    if problem.snapshot.task != "classification":
        sides = 2 * problem.targets.astype(np.float32).reshape(len(problem.scores), -1) - 1

        def signs(outputs: Singles, width: Singles, weights: Singles) -> float:
            return float((np.clip(1 - outputs[:, 0, :] * sides / width, 0.0, 1.0) * weights).sum(dtype=np.float64))

        return signs
    targets = problem.targets.astype(np.int64)
    rows = np.arange(len(targets))

    def margins(outputs: Singles, width: Singles, weights: Singles) -> float:
        scores = outputs[:, 0, :]
        rest = scores.copy()
        rest[rows, targets] = -np.inf
        margin = scores[rows, targets] - rest.max(axis=1)
        return float((np.clip(1 - margin / width, 0.0, 1.0) * weights[:, 0]).sum(dtype=np.float64))

    return margins


def natural_widths(problem: Problem) -> tuple[float, float, float]:
    """The width to begin with, and the range to try, in units of `SinglePrecision.unit`."""
    match problem.objective.name:
        case "ramp":
            return 1.0, 0.5, 2.0
        case "zero_one" | "worst_class" | "worst_group":
            return 0.1, 0.01, 0.3
        case "outliers":
            return 1.0, 0.2, 3.0
    return 1.0, 0.1, 3.0
