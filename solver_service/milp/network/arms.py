"""Which kind of round comes next: the kinds that have paid for their work get more of it, and none is ever given up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FORGET = 0.97
"""What a round counts for, one round later: what paid at first need not pay now."""
FLOOR = 0.05
"""Every arm keeps this share of the best one's chance."""


@dataclass
class _Record:
    work: float
    gain: float


class Arms:
    """Draws among arms by gain per work; works and gains are counts, so that the same seed draws the same arms."""

    def __init__(self, names: Sequence[str], prior: Sequence[float]) -> None:
        self._records = {name: _Record(1.0, chance) for name, chance in zip(names, prior, strict=True)}

    def draw(self, rng: np.random.Generator) -> str:
        """The next arm."""
        rates = np.array([record.gain / record.work for record in self._records.values()])
        chances = np.maximum(rates, FLOOR * rates.max())
        return str(rng.choice(list(self._records), p=chances / chances.sum()))

    def learn(self, name: str, *, work: float, gain: float) -> None:
        """Take note of what a round of an arm cost, and of what it gained, both in parts of a usual round."""
        record = self._records[name]
        record.work = FORGET * record.work + work
        record.gain = FORGET * record.gain + gain
