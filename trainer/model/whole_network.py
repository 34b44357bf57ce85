"""Small networks are tunnelled whole: every layer moves, in boxes wide enough to hold a network drawn anew."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.snapshot import FloatArray, Snapshot, regression_targets

MOST_WEIGHTS = 5_000
"""Of a network that goes whole."""
MOST_COEFFICIENTS = 30_000_000
"""Samples x weights of a job on a whole network: each evaluation of its descents multiplies as many."""
WIDTHS = (4.0, 1.0, 0.3)
"""Half-widths of one stall's jobs, in units of the weights that a new network is drawn with.

In the widest box a search can begin anywhere, the narrowest holds on to what gradient descent has found: the search
fits the training samples so closely that a box is what there is against overfitting. Validation chooses.
"""

ANEW = (4.0, 2.0) * 3
"""The same for further jobs of the last tunnel, which begin from weights drawn anew.

Where weights are about as many as samples, many answers fit all samples, and only validation tells which is good
elsewhere: these are other ones, as restarts are.
"""
SHORT = 0.3
"""Of a job's time, for those: a search that ends early fits its samples less closely."""


@dataclass(frozen=True)
class Draw:
    """One job on a whole network: the width of its box, its share of the time, whether it begins from new weights."""

    width: float
    share: float = 1.0
    anew: bool = False


def draws(*, last: bool, count: int) -> list[Draw]:
    """The jobs of a stall, of the last one if `last`; `count` of them, or as many as there have to be."""
    found = [Draw(width) for width in WIDTHS]
    if last:
        found += [Draw(width, SHORT, anew=True) for width in ANEW]
    further = range(len(found), count)
    return [*found, *(Draw(WIDTHS[number % len(WIDTHS)]) for number in further)]


def drawn_anew(snapshot: Snapshot, generator: np.random.Generator) -> Snapshot:
    """The snapshot with new weights and biases in every layer, uniform in +-1 / sqrt(inputs) as torch draws them."""

    def new(values: FloatArray, inputs: int) -> FloatArray:
        return np.asarray(generator.uniform(-1, 1, values.shape) / np.sqrt(inputs), dtype=np.float32)

    def bias(values: FloatArray | None, inputs: int) -> FloatArray | None:
        return None if values is None else new(values, inputs)

    tail = tuple(
        replace(layer, weight=new(layer.weight, layer.weight.shape[1]), bias=bias(layer.bias, layer.weight.shape[1]))
        for layer in snapshot.tail
    )
    inputs = snapshot.weight.shape[1]
    return replace(snapshot, weight=new(snapshot.weight, inputs), bias=bias(snapshot.bias, inputs), tail=tail)


def weight_count(snapshot: Snapshot) -> int:
    """How many weights and biases a block and the layers behind it have."""
    pairs = [(snapshot.weight, snapshot.bias), *((layer.weight, layer.bias) for layer in snapshot.tail)]
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
