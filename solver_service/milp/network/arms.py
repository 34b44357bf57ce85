"""Which kind of round comes next: what has paid for its work gets more of it, and nothing is ever given up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FORGET = 0.95
"""What a round counts for, one round later: what paid at first need not pay now."""
FLOOR = 0.1
"""Every arm keeps this share of the work that the best one would get."""
PRIOR = 0.01
"""The gain that an arm is believed to have had before its first round."""


@dataclass
class _Record:
    work: float
    gain: float = PRIOR


class Arms:
    """Draws among arms by gain per work; both are counts, never seconds, so that the same seed draws the same arms.

    `works` says what a round of each arm is believed to take. A rare arm that takes long still has its share of the
    work: the floor of its chance is lower by as much as it takes longer.
    """

    def __init__(self, works: Mapping[str, float]) -> None:
        self._records = {name: _Record(work) for name, work in works.items()}
        self._floors = FLOOR * min(works.values()) / np.array(list(works.values()))

    def draw(self, rng: np.random.Generator) -> str:
        """The next arm."""
        if len(self._records) == 1:
            return next(iter(self._records))
        rates = np.array([record.gain / record.work for record in self._records.values()])
        chances = np.maximum(rates, self._floors * max(float(rates.max()), 1e-300))
        return str(rng.choice(list(self._records), p=chances / chances.sum()))

    def learn(self, name: str, *, work: float, gain: float) -> None:
        """Take note of what a round of an arm cost, and of the part of the objective that it took away."""
        record = self._records[name]
        record.work = FORGET * record.work + work
        record.gain = FORGET * record.gain + gain


def relative_gain(before: float, after: float) -> float:
    """The part of an objective >= 0 that is gone; all of it where there was none that keeps the constraints."""
    if math.isinf(before):
        return 0.0 if math.isinf(after) else 1.0
    return (before - after) / before if before > 0 else 0.0
