"""How much more a cell of samples weighs for what floors and gaps ask of it: raised where shares fall short.

Multiplicative weights, as in cost-sensitive reductions (Narasimhan et al., 2015): a set of cells whose share of right
samples is too small has its multiplier raised, one with room has it lowered.
"""

import numpy as np

from solver_service.milp.core.problem import Array, Mask
from solver_service.milp.heuristics.walks.tally import Tally

STEP, SLOWER, FASTER = 4.0, 0.7, 1.1
"""How far a multiplier goes for a share that is short by 1, and what the step is times after a change of side."""
ROOM = 1e-3
"""Shares are aimed at this much above what is asked: what sits on the line is lost to rounding."""
LARGEST = 7.0
"""No cell weighs more than e^7 times its own."""


class Multipliers:
    """One multiplier for each set of cells [f]: first the floors', then those of the groups of each gap.

    Then come the sets whose largest error rate is the objective: each is wanted to be no worse than their mean. Last
    are those of precisions: all that is not of the class, which is called it the less, the more it weighs.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        groups = [members for members, _ in tally.gaps]
        self._sets = np.concatenate([tally.floors, *groups, tally.judged, 1 - tally.precise])
        count = len(self._sets)
        self._theta, self._step, self._before = np.zeros(count), np.full(count, STEP), np.zeros(count)
        # Only a floor never weighs a set down below its own weight: others may have to get worse.
        asked = np.arange(count)
        self._low = np.where((asked < len(tally.least)) | (asked >= count - len(tally.claimed)), 0.0, -LARGEST)

    @property
    def factors(self) -> Array:
        """What the samples of each cell [c] weigh, as a multiple of their own weight."""
        return np.asarray(np.exp(np.clip(self._theta @ self._sets, -LARGEST, LARGEST)))

    def learn(self, right: Array) -> float:
        """Move them for what the tally looks at, `right` [c + p]; how far the farthest one moved."""
        lack = self._lack(right)
        self._step *= np.where(lack * self._before < 0, SLOWER, FASTER)
        moved = np.clip(self._theta + self._step * lack, self._low, LARGEST)
        farthest = float(np.abs(moved - self._theta).max(initial=0.0))
        self._theta, self._before = moved, lack
        return farthest

    def short(self, right: Array) -> Mask:
        """The cells [c] of the sets whose share is too small."""
        return np.asarray((self._lack(right) > 0) @ self._sets > 0)

    def _lack(self, right: Array) -> Array:
        """By how much the share of right samples of each set [f] is too small (above 0) or has room (below 0)."""
        tally, size = self._tally, np.maximum(self._sets @ self._tally.total, 1e-300)
        shares = (self._sets @ right[: tally.cells]) / size
        first = len(tally.least)
        wanted = [tally.least / size[:first] + ROOM - shares[:first]]
        for members, most in tally.gaps:
            rates = shares[first : first + len(members)]
            # Both ends are drawn towards the band of width `most` around the middle; what is inside drifts back.
            middle, half = (rates.max() + rates.min()) / 2, max(0.0, most / 2 - ROOM)
            below, above = middle - half - rates, rates - middle - half
            wanted.append(np.where(rates < middle, below, -above))
            first += len(members)
        if len(tally.judged):
            worst = shares[first : first + len(tally.judged)]
            wanted.append(worst.mean() - worst)
        wanted.append(tally.demanded + ROOM - tally.precision(right))
        return np.concatenate(wanted)
