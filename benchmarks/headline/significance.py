"""What chance could have done: bootstrap intervals of means, and paired tests over seeds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import permutation_test

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its bootstrap interval at 95 %."""

    mean: float
    low: float
    high: float


def interval(values: ArrayLike, seed: int = 0) -> Interval:
    """The mean of values [n] and its percentile bootstrap interval; of a single value, that value three times."""
    found = np.asarray(values, dtype=float)
    rows = np.random.default_rng(seed).integers(0, len(found), (DRAWS, len(found)))
    low, high = np.quantile(found[rows].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(found.mean()), float(low), float(high))


def paired_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """How likely a mean difference as large as this is if each pair's order is chance; two-sided, exact for n <= 13.

    With n pairs it is 2 / 2^n at least: 0.25 for three seeds, 0.0625 for five. 1 if all pairs are ties.
    """
    first, second = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if len(first) < 2 or np.array_equal(first, second):
        return 1.0
    test = permutation_test(
        (first, second),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=DRAWS,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)
