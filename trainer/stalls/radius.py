"""Chooses how far a job may move the weights: half-widths of the box, adapted by what became of earlier answers."""

from dataclasses import dataclass, field

GROW, SHRINK = 1.5, 0.6
SMALLEST, LARGEST = 0.02, 4.0
FIRST = 1.0
"""Measured on the first job at 32 stalls, docs/trainer/measured.md: a quarter is adopted as often and gains a third."""


@dataclass
class AdaptiveRadius:
    """Half-widths as multiples of the size of a layer's weights: wider after an adoption, narrower after a rejection.

    Each layer has its own. Small boxes generalise and suit a model that has moved on meanwhile, large ones leave deeper
    minima. `fixed` (in weight units) switches adaptation off.
    """

    fixed: float | None = None
    first: float = FIRST
    scales: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for a box without an inside."""
        if self.fixed is not None and not 0 < self.fixed < float("inf"):
            raise ValueError(f"radius is {self.fixed}; use more than 0, in weight units, or None to have it adapted")

    def value(self, layer: str, size: float) -> float:
        """The half-width now, in weight units, for a layer whose weights have this size (`weight_size`)."""
        return self.fixed if self.fixed is not None else self._scale(layer) * size

    def adopted(self, layer: str) -> None:
        """Note that an answer helped."""
        self.scales[layer] = min(LARGEST, self._scale(layer) * GROW)

    def rejected(self, layer: str) -> None:
        """Note that an answer did not help."""
        self.scales[layer] = max(SMALLEST, self._scale(layer) * SHRINK)

    def _scale(self, layer: str) -> float:
        return self.scales.get(layer, self.first)
