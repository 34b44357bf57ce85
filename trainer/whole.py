"""Small networks are tunnelled whole: every layer moves, in boxes wide enough to hold a network drawn anew."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.snapshot import FloatArray, Snapshot, regression_targets
from trainer.blocks import Block

MOST_WEIGHTS = 5_000
"""Of a network that goes whole."""
MOST_COEFFICIENTS = 30_000_000
"""Samples x weights of a job on a whole network: each evaluation of its descents multiplies as many."""
WIDTHS = (4.0, 1.0, 0.3)
"""Half-widths of one stall's jobs, in units of the weights that a new network is drawn with.

In the widest box a search can begin anywhere, the narrowest holds on to what gradient descent has found: the search
fits the training samples so closely that a box is what there is against overfitting. Validation chooses.
"""

SHARES = (1.0, 0.3, 0.1)
"""Of a job's time, in the last tunnel: its jobs go through all widths for each share, with other seeds.

A search that ends early fits the training samples less closely, as a descent does that is stopped early; and where
there are fewer samples than weights, many answers fit them all, and only validation tells which is good elsewhere.
"""


def weight_count(model: nn.Module, block: Block) -> int:
    """How many weights and biases a block and the layers behind it have."""
    pairs = [layer.matrix(model) for layer in (block.layer, *block.tail)]
    return sum(weight.size + (0 if bias is None else bias.size) for weight, bias in pairs)


def units(snapshot: Snapshot) -> tuple[float, ...]:
    """The half-range 1 / sqrt(inputs) of newly drawn weights for the block and each layer behind it.

    Inputs and targets rarely have size 1: the block's are per root mean square of its inputs, those of the last layer
    of a regression times that of its targets.
    """
    layers = [snapshot.weight, *(layer.weight for layer in snapshot.tail)]
    found = [1.0 / np.sqrt(weight.shape[1]) for weight in layers]
    found[0] /= _size(snapshot.inputs)
    if snapshot.task == "regression":
        found[-1] *= _size(regression_targets(snapshot))
    return tuple(float(unit) for unit in found)


def boxes(snapshot: Snapshot, width: float) -> tuple[float, ...]:
    """Half-widths for the block and each layer behind it."""
    return tuple(width * unit for unit in units(snapshot))


def _size(values: FloatArray | NDArray[np.float64]) -> float:
    """Root mean square, 1 where everything is 0."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=np.float64))))) or 1.0
