"""The losses of single samples and how they are gathered: plain float64 functions of outputs, margins and errors."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ENTRIES_AT_ONCE = 1 << 17
"""Scores that are looked at together: what a cache holds, and no second table of them is made."""
SLACK = 1e-9
"""Shares that differ by less are the same: 7 of 10 samples are a share of 0.7, whatever their weights' rounding."""


def margins(scores: Array, targets: NDArray[np.generic]) -> Array:
    """Each sample's margin t_n = s_y - max over k != y of s_k, [N], from scores [N, K] and classes [N]."""
    found = np.empty(len(scores))
    for part in parts_of(scores):
        rivals = scores[part].copy()
        rows, classes = np.arange(len(rivals)), targets[part]
        own = rivals[rows, classes]
        rivals[rows, classes] = -np.inf
        found[part] = own - rivals.max(axis=1)
    return found


def cross_entropy(scores: Array, targets: NDArray[np.generic]) -> Array:
    """log(sum_k exp(s_k)) - s_y of each sample [N]; the largest score is taken out first, so nothing overflows."""
    found = np.empty(len(scores))
    for part in parts_of(scores):
        some = scores[part]
        largest, own = some.max(axis=1), some[np.arange(len(some)), targets[part]]
        found[part] = np.log(np.exp(some - largest[:, None]).sum(axis=1)) + (largest - own)
    return found


def parts_of(table: NDArray[np.generic]) -> Iterator[slice]:
    """The rows of a table [N, ...], some at a time."""
    rows = max(1, ENTRIES_AT_ONCE * len(table) // max(1, table.size))
    return (slice(begin, begin + rows) for begin in range(0, len(table), rows))


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
