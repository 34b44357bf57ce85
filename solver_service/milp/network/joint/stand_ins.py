"""Smooth functions that descents follow in place of each objective: value and slope by the outputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.losses import kept_after_trim
from shared.objectives import WORST, Objective, cells, sample_weights
from shared.snapshot import Snapshot, label_targets, regression_targets
from solver_service.milp.core.problem import Array, Index

Real = Array
"""Float64, or float32 where an evaluator computes in that."""
Function = Callable[[Real], tuple[float, Real]]
Total = Callable[[Array], tuple[float, Array]]
"""From each sample's loss [n] to what they come to together, and its derivative by each of them [n]."""

SOFTNESS = 0.1
"""How wide, as a part of the usual error or of the margin, a kink is rounded off."""
PEAK = 12.0
"""The power of the norm that stands for the largest error."""
ROUNDING, LEAST_ROUNDING = 0.3, 0.01
"""How wide the maximum over cells' error rates is rounded off, as a multiple of the softness, and at least."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """From outputs [K, n] to a value and its derivative by them [K, n]; `squares` where it is the mse itself."""

    function: Function
    squares: bool = False

    def __call__(self, outputs: Real) -> tuple[float, Real]:
        """Value and slope."""
        return self.function(outputs)


def stand_in(
    goal: Objective,
    snapshot: Snapshot,
    rows: Index | None = None,
    *,
    softness: float = SOFTNESS,
    importance: Array | None = None,
    capped: bool = True,
) -> StandIn:
    """The function to follow for an objective; `softness` tells how closely, `importance` [N] weighs samples anew.

    Not `capped`, a ramp or a count of errors gives up on no sample: from far away its own slope leads nowhere.
    """
    weights = sample_weights(snapshot) if importance is None else sample_weights(snapshot) * importance
    chosen = slice(None) if rows is None else rows
    weights = weights[chosen]
    if snapshot.task == "regression":
        errors = _of_errors(goal, regression_targets(snapshot)[chosen].T, weights, softness)
        return StandIn(errors, squares=goal.name == "mse")
    if goal.name in WORST:
        cell = cells(goal, snapshot)[chosen]
        within = weights / np.maximum(np.bincount(cell, sample_weights(snapshot)[chosen])[cell], 1e-300)
        total = _worst(cell, within, max(LEAST_ROUNDING, ROUNDING * softness)) if capped else _mean(within)
    else:
        total = _mean(weights)
    if snapshot.task != "classification":
        sides = 2.0 * label_targets(snapshot)[chosen].T.astype(np.float64) - 1.0
        return StandIn(_of_labels(goal, sides, total, softness, capped))
    targets = np.asarray(snapshot.targets)[chosen].astype(np.int64)
    return StandIn(_of_margins(goal, targets, total, softness, capped))


def _mean(weights: Array) -> Total:
    """The mean of losses [n] at weights [n]."""
    share = weights / weights.sum()

    def mean(losses: Array) -> tuple[float, Array]:
        return float((losses * share).sum()), share

    return mean


def _worst(cell: Index, within: Array, width: float) -> Total:
    """The soft maximum over cells [n] of their sums of losses [n], each at its weight `within` its cell [n].

    It is at most `width` log(cells) above the largest.
    """

    def worst(losses: Array) -> tuple[float, Array]:
        rates = np.bincount(cell, losses * within)
        top = rates.max()
        pull = np.exp((rates - top) / width)
        everything = pull.sum()
        return float(top + width * np.log(everything)), np.asarray((pull / everything)[cell] * within)

    return worst


def _of_errors(goal: Objective, targets: Array, weights: Array, softness: float) -> Function:
    """Targets [K, n], weights [n]."""
    targets = np.ascontiguousarray(targets)
    share = weights / (weights.sum() * len(targets))
    functions: dict[str, Callable[[], Function]] = {
        "mse": lambda: _squares(targets, share),
        "max_error": lambda: _peak(targets, share),
        "outliers": lambda: _beyond(targets, share, goal.tolerance or 0.0, softness),
        "huber": lambda: _huber(targets, share, goal.delta),
        "quantile": lambda: _tilted(_absolute(targets, share, softness), share, goal.quantile),
        "trimmed_mse": lambda: _trimmed(targets, share, goal.trim, lambda kept: _squares(targets, kept)),
        "trimmed_mae": lambda: _trimmed(targets, share, goal.trim, lambda kept: _absolute(targets, kept, softness)),
    }
    return functions.get(goal.name, lambda: _absolute(targets, share, softness))()


def _huber(targets: Array, share: Array, delta: float) -> Function:
    """The objective itself, which is smooth: e^2 / 2, and linear beyond delta."""

    def huber(outputs: Real) -> tuple[float, Real]:
        error = np.asarray(outputs - targets, dtype=np.float64)
        near = np.clip(error, -delta, delta)
        return float((near * (error - 0.5 * near) * share).sum()), np.asarray(near * share)

    return huber


def _tilted(absolute: Function, share: Array, quantile: float) -> Function:
    """Pinball losses: `|e| / 2 + (1/2 - q) e` for an error e of output less target."""
    tilt = 0.5 - quantile

    def tilted(outputs: Real) -> tuple[float, Real]:
        value, slope = absolute(outputs)
        return 0.5 * value + tilt * float((outputs * share).sum()), np.asarray(0.5 * slope + tilt * share)

    return tilted


def _trimmed(targets: Array, share: Array, trim: float, of_kept: Callable[[Array], Function]) -> Function:
    """The same over the samples that are kept at these outputs: those with the smallest errors."""

    def trimmed(outputs: Real) -> tuple[float, Real]:
        size = np.abs(np.asarray(outputs - targets, dtype=np.float64)).mean(axis=0)
        return of_kept(share * kept_after_trim(size, share, trim))(outputs)

    return trimmed


def _squares(targets: Array, share: Array) -> Function:
    even = bool((share == share[0]).all())
    cast: dict[str, Real] = {}

    def squares(outputs: Real) -> tuple[float, Real]:
        own = cast.setdefault(outputs.dtype.char, targets.astype(outputs.dtype))
        error = outputs - own
        if even:
            value = float(np.vdot(error, error)) * float(share[0])
            error *= outputs.dtype.type(2.0 * share[0])
            return value, error
        slope = error * (2.0 * share).astype(outputs.dtype)
        return 0.5 * float(np.vdot(error, slope)), slope

    return squares


def _absolute(targets: Array, share: Array, softness: float) -> Function:
    """`sqrt(e^2 + s^2) - s`, where s is a part of the targets' spread at first and of the mean error later on."""
    spread = float(np.sqrt(np.mean(np.square(targets - targets.mean(axis=1, keepdims=True))))) or 1.0

    def absolute(outputs: Real) -> tuple[float, Real]:
        error = np.asarray(outputs - targets, dtype=np.float64)
        width = softness * spread
        root = np.sqrt(np.square(error) + width * width)
        return float(((root - width) * share).sum()), np.asarray(error / root * share)

    return absolute


def _peak(targets: Array, share: Array) -> Function:
    """A p-norm of the errors that count."""
    counts = share > 0

    def peak(outputs: Real) -> tuple[float, Real]:
        error = np.asarray(outputs - targets, dtype=np.float64) * counts
        size = np.abs(error)
        top = float(size.max())
        if top == 0.0:
            return 0.0, np.zeros_like(error)
        ratio = size / top
        power = ratio ** (PEAK - 1)
        total = float((power * ratio).sum())
        value = top * total ** (1 / PEAK)
        return value, np.asarray(np.sign(error) * power * total ** (1 / PEAK - 1))

    return peak


def _beyond(targets: Array, share: Array, tolerance: float, softness: float) -> Function:
    """`r^2 / (1 + r^2)` of the excess r beyond the tolerance in units of a width: a rounded count."""
    spread = float(np.sqrt(np.mean(np.square(targets - targets.mean(axis=1, keepdims=True))))) or 1.0
    width = max(tolerance, 3 * softness * spread)

    def beyond(outputs: Real) -> tuple[float, Real]:
        error = np.asarray(outputs - targets, dtype=np.float64)
        excess = np.maximum(np.abs(error) - 0.98 * tolerance, 0.0) / width
        below = 1.0 / (1.0 + np.square(excess))
        value = float(((1.0 - below) * share).sum())
        return value, np.asarray(np.sign(error) * 2.0 * excess * np.square(below) / width * share)

    return beyond


def _of_margins(goal: Objective, targets: Index, total: Total, softness: float, capped: bool) -> Function:
    """Margins against the soft maximum of the rivals, in a loss that is nearly the objective's."""
    rows = np.arange(len(targets))
    if goal.name == "log_loss":
        return _cross_entropy(targets, total)
    ramp, need = _corner(goal, softness, capped)

    def margins(outputs: Real) -> tuple[float, Real]:
        scores = np.asarray(outputs, dtype=np.float64) / need
        rivals = scores.copy()
        rivals[targets, rows] = -np.inf
        top = rivals.max(axis=0)
        sharp = np.exp((rivals - top) / softness)
        all_rivals = sharp.sum(axis=0)
        margin = scores[targets, rows] - top - softness * np.log(all_rivals)
        loss, slope = _margin_loss(margin, softness, capped=ramp)
        value, share = total(loss)
        pull = slope * share / need
        found = -pull * sharp / all_rivals
        found[targets, rows] += pull
        return value, found

    return margins


def _corner(goal: Objective, softness: float, capped: bool) -> tuple[bool, float]:
    """Whether a loss of margins has a cap, and the margin that counts as 1."""
    counted = goal.name in ("zero_one", *WORST)
    return capped and (counted or goal.name == "ramp"), max(softness, 1e-3) if counted else goal.margin


def _cross_entropy(targets: Index, total: Total) -> Function:
    """The objective itself: log sum_k exp(s_k) - s_y."""
    rows = np.arange(len(targets))

    def entropy(outputs: Real) -> tuple[float, Real]:
        scores = np.asarray(outputs, dtype=np.float64)
        scores = scores - scores.max(axis=0)
        found = np.exp(scores)
        everything = found.sum(axis=0)
        value, share = total(np.log(everything) - scores[targets, rows])
        found *= share / everything
        found[targets, rows] -= share
        return value, found

    return entropy


def _of_labels(goal: Objective, sides: Array, total: Total, softness: float, capped: bool) -> Function:
    """Independent labels with sides -1 and 1 [K, n]: each output's margin is its side times the output."""
    ramp, need = _corner(goal, softness, capped)

    def labels(outputs: Real) -> tuple[float, Real]:
        margin = sides * np.asarray(outputs, dtype=np.float64)
        if goal.name == "log_loss":
            loss, slope = np.logaddexp(0.0, -margin), -_sigmoid(-margin)
        else:
            loss, slope = _margin_loss(margin / need, softness, capped=ramp)
            slope = slope / need
        value, share = total(loss.mean(axis=0))
        return value, np.asarray(sides * slope * (share / len(sides)))

    return labels


def _margin_loss(margin: Array, softness: float, *, capped: bool) -> tuple[Array, Array]:
    """The loss of a margin in units of what is needed, and its slope: a soft hinge, its cap where there is one."""
    if not capped:
        gap = (1.0 - margin) / softness
        return softness * np.logaddexp(0.0, gap), -_sigmoid(gap)
    # The ramp's corners, at 0 and 1, are rounded off by a logistic step of about its width.
    width = 0.25
    step = _sigmoid((0.5 - margin) / width)
    return step, -step * (1.0 - step) / width


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
