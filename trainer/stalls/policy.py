"""Which layer to tunnel at a stall: the one that gradient descent can do least for, and each in its turn."""

from collections.abc import Mapping, Sequence

from trainer.errors import CaptureError
from trainer.model.view import MOST_COEFFICIENTS, LayerView

AUTO = "auto"
"""In place of a layer's name: the policy decides at every stall."""

FEWEST_SAMPLES = 32
"""A job that sees fewer would only learn them by heart."""


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
