"""Chooses which of the samples that were seen a snapshot holds, and weighs them so that they speak for all."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WRONG_SHARE, NEAR_SHARE = 0.4, 0.3
"""Shares of a snapshot for misclassified samples and for those nearest the margin; easy ones to guard get the rest."""


@dataclass(frozen=True)
class Choice:
    """Chosen samples: positions in the pool, and each one's weight [n], or None when all weigh the same.

    Hard samples and rare classes are over-represented; the weights undo both, so that a job's objective still speaks
    for the training data as a whole, and easy samples are not traded for hard ones.
    """

    positions: NDArray[np.int64]
    weights: NDArray[np.float32] | None


def choose_by_margin(
    margins: NDArray[np.float64], classes: NDArray[np.int64], samples: int, generator: np.random.Generator
) -> Choice:
    """Choose `samples` of a pool by margin [N] and class [N]: misclassified, near the margin, and easy ones.

    Within each kind classes are balanced. Where a kind has too few, the others get its share.
    """
    total = len(margins)
    if total <= samples:
        return Choice(np.arange(total), None)
    wrong = np.flatnonzero(margins <= 0)
    right = np.flatnonzero(margins > 0)
    right = right[np.argsort(margins[right], kind="stable")]
    wrong_count = min(len(wrong), max(round(WRONG_SHARE * samples), samples - len(right)))
    near_count = min(round(NEAR_SHARE * samples), samples - wrong_count)
    near, easy = np.split(right, [min(2 * near_count, len(right) - (samples - wrong_count - near_count))])
    strata = [(wrong, wrong_count), (near, near_count), (easy, samples - wrong_count - near_count)]
    return _draw(strata, classes, generator)


def choose_evenly(total: int, samples: int, generator: np.random.Generator) -> Choice:
    """Choose `samples` of `total` at random."""
    if total <= samples:
        return Choice(np.arange(total), None)
    return Choice(np.sort(generator.choice(total, samples, replace=False)), None)


def _draw(
    strata: list[tuple[NDArray[np.int64], int]], classes: NDArray[np.int64], generator: np.random.Generator
) -> Choice:
    positions, weights = [], []
    for members, count in strata:
        if count == 0:
            continue
        drawn = _balanced(members, classes[members], count, generator)
        positions.append(drawn)
        weights.append(_shares(classes[members], classes[drawn]))
    order = np.argsort(chosen := np.concatenate(positions), kind="stable")
    raw = np.concatenate(weights)[order]
    return Choice(chosen[order], (raw / raw.mean()).astype(np.float32))


def _shares(there: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many of a kind each drawn sample stands for, by class; classes of which none was drawn by all together."""
    most = int(there.max()) + 1
    members, count = np.bincount(there, minlength=most), np.bincount(drawn, minlength=most)
    shares = members[drawn] / count[drawn]
    return np.asarray(shares * (len(there) / shares.sum()))


def _balanced(
    members: NDArray[np.int64], classes: NDArray[np.int64], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` members, taking classes in turn: sort by rank within the class, ties at random."""
    shuffled = generator.permutation(len(members))
    ranks = np.empty(len(members), np.int64)
    for label in np.unique(classes):
        mine = shuffled[classes[shuffled] == label]
        ranks[mine] = np.arange(len(mine))
    order = np.lexsort((generator.random(len(members)), ranks))
    return members[order[:count]]
