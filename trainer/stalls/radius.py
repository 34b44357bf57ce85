"""Chooses how far a job may move the weights: half-widths of the box, adapted by what became of earlier answers."""

from dataclasses import dataclass

GROW, SHRINK = 1.5, 0.6
SMALLEST, LARGEST = 0.02, 4.0


@dataclass
class AdaptiveRadius:
    """A half-width as a multiple of the layer's mean |weight|: wider after an adoption, narrower after a rejection.

    Small boxes generalise and suit a model that has moved on meanwhile, large ones leave deeper minima. `fixed`
    (in weight units) switches adaptation off.
    """

    fixed: float | None = None
    scale: float = 0.25

    def __post_init__(self) -> None:
        """Raise ValueError for a box without an inside."""
        if self.fixed is not None and not self.fixed > 0:
            raise ValueError(f"radius is {self.fixed}; use more than 0, in weight units, or None to have it adapted")

    def value(self, mean_weight: float) -> float:
        """The half-width now, in weight units, for a layer whose mean |weight| is given."""
        return self.fixed if self.fixed is not None else self.scale * max(mean_weight, 1e-3)

    def adopted(self) -> None:
        """Note that an answer helped."""
        self.scale = min(LARGEST, self.scale * GROW)

    def rejected(self) -> None:
        """Note that an answer did not help."""
        self.scale = max(SMALLEST, self.scale * SHRINK)
