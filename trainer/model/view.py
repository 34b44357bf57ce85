"""A layer as a stall's policy and its job see it: in figures."""

from dataclasses import dataclass

from trainer.model.whole_network import MOST_COEFFICIENTS as MOST_WHOLE

MOST_COEFFICIENTS = 3_000_000
"""Of the linear programs that refine a hidden block: samples x outputs x weights that move."""
ROOM = 1.25
"""How much further than needed the biases of dead units may rise."""


@dataclass(frozen=True)
class LayerView:
    """A layer as it stands at a stall.

    `dead` and `nearly_dead` of its `units` have an activation whose slope is zero on all, or nearly all, samples:
    gradient descent cannot move the former at all. `gradient` is the norm of the latest gradient in units of the
    weights' own, None where there is none. `moving` weights times `outputs` is what one sample costs a job, `hidden`
    says that other layers follow, `whole` that all of them move along. `lift` is how far biases have to rise to bring
    every dead unit to life on half the samples, 0 where none is dead.
    """

    name: str
    hidden: bool
    units: int
    dead: int
    nearly_dead: int
    gradient: float | None
    moving: int
    outputs: int
    lift: float = 0.0
    whole: bool = False

    @property
    def turn(self) -> str:
        """The name under which failures are counted."""
        return f"{self.name} and all behind it" if self.whole else self.name

    @property
    def stuck(self) -> float:
        """The share of units that gradient descent can do nothing, or hardly anything, for."""
        return (self.dead + 0.5 * self.nearly_dead) / self.units

    def samples(self, wanted: int) -> int:
        """How many samples a job on this layer can have, at most `wanted`."""
        if not self.hidden:
            return wanted
        if self.whole:
            return min(wanted, MOST_WHOLE // self.moving)
        return min(wanted, MOST_COEFFICIENTS // (self.moving * self.outputs))

    def bias_radius(self, radius: float) -> float:
        """How far biases may move: as far as weights, and far enough to revive what is dead."""
        return max(radius, ROOM * self.lift)
