"""The losses of single samples and how they are gathered: plain float64 functions of outputs, margins and errors."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SLACK = 1e-9
"""Shares that differ by less are the same: 7 of 10 samples are a share of 0.7, whatever their weights' rounding."""


def margins(scores: Array, targets: NDArray[np.generic]) -> Array:
    """Each sample's margin t_n = s_y - max over k != y of s_k, [N], from scores [N, K] and classes [N]."""
    rows = np.arange(len(scores))
    own = scores[rows, targets]
    rivals = scores.copy()
    rivals[rows, targets] = -np.inf
    return np.asarray(own - rivals.max(axis=1), dtype=np.float64)


def cross_entropy(scores: Array, targets: NDArray[np.generic]) -> Array:
    """log(sum_k exp(s_k)) - s_y of each sample [N]; the largest score is taken out first, so nothing overflows."""
    largest = scores.max(axis=1)
    own = scores[np.arange(len(scores)), targets]
    return np.asarray(np.log(np.exp(scores - largest[:, None]).sum(axis=1)) + (largest - own))


def logistic(margin: Array) -> Array:
    """log(1 + exp(-t)), entry by entry; no t overflows."""
    return np.asarray(np.logaddexp(0.0, -margin))


def huber(error: Array, delta: float) -> Array:
    """e^2 / 2 up to delta, delta (|e| - delta / 2) beyond it: q (|e| - q / 2) with q = min(|e|, delta)."""
    size = np.abs(error)
    near = np.minimum(size, delta)
    return np.asarray(near * (size - 0.5 * near))


def pinball(error: Array, quantile: float) -> Array:
    """q e where the target is above the output (e = y - s >= 0), (1 - q) |e| where it is below."""
    return np.asarray(np.maximum(quantile * error, (quantile - 1.0) * error))


def kept_after_trim(errors: Array, weights: Array, trim: float) -> Mask:
    """The samples [N] that stay when the largest errors are dropped, as long as their weight fits into the share.

    Among equal errors the first are dropped first. The first sample that does not fit ends it, even where a lighter one
    behind it would.
    """
    kept = np.ones(errors.size, dtype=bool)
    if trim > 0:
        order = np.lexsort((np.arange(errors.size), -errors))
        kept[order[np.cumsum(weights[order]) <= (trim + SLACK) * weights.sum()]] = False
    return kept


def worst_cell(wrong: Mask, weights: Array, cells: NDArray[np.int64]) -> tuple[Array, Mask]:
    """Each sample's share [N] of its cell's weight if it is wrong, and the members [N] of the cell that is worst.

    `cells` [N] numbers the cells from 0; those without weight have no rate.
    """
    total = np.bincount(cells, weights=weights)
    rates = np.divide(
        np.bincount(cells, weights=weights * wrong), total, out=np.full(total.size, -1.0), where=total > 0
    )
    shares = np.divide(weights * wrong, total[cells], out=np.zeros(weights.size), where=total[cells] > 0)
    return shares, np.asarray(cells == int(rates.argmax()))
