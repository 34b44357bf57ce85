"""Which layer to tunnel at a stall: the one that gradient descent can do least for, and each in its turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.errors import CaptureError
from trainer.snapshots.whole_network import MOST_COEFFICIENTS as MOST_WHOLE

AUTO = "auto"
"""In place of a layer's name: the policy decides at every stall."""

FEWEST_SAMPLES = 32
"""A job that sees fewer would only learn them by heart."""
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


def choose(views: Sequence[LayerView], turns: Mapping[str, int]) -> LayerView:
    """Choose among layers; `turns` counts the stalls for each in which no answer helped since one last did.

    Layers take turns, so that none is tried in vain again before the others have been. In between, a whole network
    comes first, then layers with more dead units, then those where the gradient is smallest. Raises CaptureError if
    all are too large.
    """
    fitting = [view for view in views if view.samples(FEWEST_SAMPLES) == FEWEST_SAMPLES]
    if not fitting:
        smallest = min(views, key=lambda view: view.moving * view.outputs)
        raise CaptureError(
            f"every layer is too large: even {smallest.name!r} would take "
            f"{FEWEST_SAMPLES * smallest.moving * smallest.outputs:,} coefficients for {FEWEST_SAMPLES} samples, "
            f"at most {MOST_COEFFICIENTS:,} are possible"
        )
    return min(fitting, key=lambda view: (turns.get(view.turn, 0), not view.whole, -view.stuck, view.gradient or 0.0))
