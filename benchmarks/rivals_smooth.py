"""Rivals that follow slopes of the whole data: L-BFGS-B in the box from many starts, and reweighted least squares."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, lsq_linear, minimize

from benchmarks.rivals_case import Array, Case
from shared.objectives import margins
from shared.snapshot import regression_targets

LOCAL = 500
"""Iterations of one L-BFGS-B run."""
Loss = Callable[[Array], tuple[float, Array]]
NARROW = 0.1
"""The width of the ramp that stands for a count."""
OFFERED = 30
"""After so many evaluations the best of a run is offered, though the run goes on."""
TINY = 1e-300
"""Keeps a division by an error of 0 finite."""


def restarts(case: Case, rng: np.random.Generator) -> None:
    """L-BFGS-B in the box: from the snapshot, and from random starts at the usual scales of initial weights."""
    runs = 0
    while case.clock.used < 1:
        start = case.start if runs == 0 else random_start(case, rng) if not case.is_final else kick(case, rng)
        smoothing = (1.0, 0.1, 0.01, 1e-3)[min(runs, 3)] if case.is_final else 0.01
        local(case, start, smoothing)
        runs += 1


def regression(case: Case, rng: np.random.Generator) -> None:
    """Bounded least squares for the output layer, reweighted towards the objective; then restarts."""
    targets = regression_targets(case.snapshot)
    design = (
        np.column_stack([case.inputs, np.ones(len(case.inputs))]) if case.snapshot.bias is not None else case.inputs
    )
    weights = np.tile(case.weights[:, None], (1, targets.shape[1]))
    offset = 0.0 if case.snapshot.offset is None else case.snapshot.offset
    for _ in range(1 if case.spec.objective == "mse" else 30):
        if not case.clock.step():
            return
        vector = np.concatenate([column.ravel() for column in _least_squares(case, design, targets - offset, weights)])
        case.offer(vector)
        error = np.abs(case.scores(vector) - targets)
        size = error.mean() * 1e-3 + TINY
        if case.spec.objective == "max_error":
            weights = weights * np.maximum(error / (error.max() + TINY), 1e-3)
        else:
            weights = case.weights[:, None] / np.maximum(error, size)
    restarts(case, rng)


def local(case: Case, start: Array, smoothing: float, iterations: int = LOCAL) -> tuple[Array, float]:
    """One run of L-BFGS-B on the smoothed objective; the best of what it saw is offered. Returns where it ended."""
    loss = smooth_loss(case, smoothing)
    seen: tuple[Array, float] = (start, np.inf)
    evaluations = 0
    # Classes need no more than float32, which is twice as fast; an error's last digits do.
    dtype = np.float32 if case.snapshot.task == "classification" else np.float64
    inputs = case.snapshot.inputs.astype(dtype)

    def of(vector: Array) -> tuple[float, Array]:
        nonlocal seen, evaluations
        if not case.clock.step():
            raise TimeoutError
        point = vector.astype(dtype)
        trace = case.forward(point, inputs)
        value, slope = loss(trace[-1])
        if value < seen[1]:
            seen = (vector.copy(), value)
        evaluations += 1
        if evaluations % OFFERED == 0:
            case.offer(seen[0])
        return value, case.backward(point, trace, slope.astype(dtype)).astype(np.float64)

    bounds = Bounds(case.low, case.high)
    try:
        done = minimize(
            of, case.clip(start), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
        )
        seen = min(seen, (done.x, float(done.fun)), key=lambda pair: pair[1])
    except TimeoutError:
        pass
    case.offer(seen[0])
    return seen


def smooth_loss(case: Case, smoothing: float) -> Loss:
    """A smooth stand-in for the objective: outputs [N, K] -> value and slopes [N, K].

    Ramps and mse stand for themselves, a count for a narrow ramp, and what is not known here for itself by differences.
    """
    if case.spec.objective in ("zero_one", "ramp", "hinge"):
        return _class_loss(case)
    if case.spec.objective in ("mse", "mae", "max_error", "outliers"):
        return _error_loss(case, smoothing)
    return case.slope


def _class_loss(case: Case) -> Loss:
    width = case.spec.margin if case.spec.objective != "zero_one" else NARROW
    most = np.inf if case.spec.objective == "hinge" else 1.0
    targets = case.snapshot.targets

    def loss(scores: Array) -> tuple[float, Array]:
        costs = np.clip(1.0 - margins(scores, targets) / width, 0.0, most)
        return float(case.weights @ costs), case.weights[:, None] * ramp_slope(scores, targets, width, most)

    return loss


def _error_loss(case: Case, smoothing: float) -> Loss:
    weights, objective = case.weights[:, None], case.spec.objective
    targets = regression_targets(case.snapshot)
    shares = weights / (case.weights.sum() * targets.shape[1])

    def loss(scores: Array) -> tuple[float, Array]:
        error = scores - targets
        size = smoothing * (np.abs(error).mean() + TINY)
        match objective:
            case "mse":
                return float((shares * error**2).sum()), 2 * shares * error
            case "max_error":  # size * log(sum(exp(|e| / size))), which lies above the maximum
                top = np.abs(error).max()
                soft = np.exp((np.abs(error) - top) / size) * (weights > 0)
                return float(top + size * np.log(soft.sum())), np.sign(error) * soft / soft.sum()
            case "mae":
                root = np.sqrt(error**2 + size**2)
                return float((shares * root).sum()), shares * error / root
        tolerance = case.spec.tolerance or size
        width = smoothing * tolerance + TINY
        with np.errstate(over="ignore"):  # outliers: a smooth step at the tolerance
            step = 1 / (1 + np.exp(-(np.abs(error) - tolerance) / width))
        return float((weights * step).sum()), weights * np.sign(error) * step * (1 - step) / width

    return loss


def ramp_slope(scores: NDArray[Any], targets: NDArray[Any], width: float, most: float = 1.0) -> NDArray[Any]:
    """The slopes [n, K] of min(most, max(0, 1 - t / width)) for margins t between a class and its strongest rival."""
    rows = np.arange(len(scores))
    rivals = scores.copy()
    rivals[rows, targets] = -np.inf
    rival = rivals.argmax(axis=1)
    margin = scores[rows, targets] - rivals[rows, rival]
    steep = ((margin > width * (1 - most)) & (margin < width)).astype(scores.dtype) / scores.dtype.type(width)
    slopes = np.zeros_like(scores)
    slopes[rows, targets] = -steep
    slopes[rows, rival] = steep
    return slopes


def random_start(case: Case, rng: np.random.Generator) -> Array:
    """Uniform weights at one or two times 1/sqrt(fan-in), clipped into the box."""
    vector = case.start.copy()
    for part in case.parts:
        for place in (part.weight, part.bias):
            if isinstance(place, slice):
                vector[place] = rng.uniform(-1, 1, place.stop - place.start) / np.sqrt(part.shape[1])
    return case.clip(vector * rng.choice([1.0, 2.0]))


def kick(case: Case, rng: np.random.Generator) -> Array:
    """The best point so far, moved by about a tenth of the radii."""
    center = case.vector if np.isfinite(case.best) else case.start
    return case.clip(center + 0.1 * case.radius * rng.normal(size=len(center)))


def _least_squares(case: Case, design: Array, wanted: Array, weights: Array) -> tuple[Array, Array]:
    """Weight [K, d] and bias [K] of weighted least squares in the box, one output after the other."""
    columns = []
    for unit in range(wanted.shape[1]):
        parts = [
            np.r_[side[case.parts[0].weight].reshape(case.parts[0].shape)[unit], _bias(case, side)[unit : unit + 1]]
            for side in (case.low, case.high)
        ]
        root = np.sqrt(weights[:, unit])
        low, high = parts[0], np.maximum(parts[1], parts[0] + 1e-12)
        columns.append(lsq_linear(design * root[:, None], wanted[:, unit] * root, (low, high), max_iter=50).x)
    found = np.array(columns)
    size = case.parts[0].shape[1]
    return found[:, :size], found[:, size:]


def _bias(case: Case, vector: Array) -> Array:
    place = case.parts[0].bias
    return vector[place] if isinstance(place, slice) else np.zeros(0)
