"""How far the values of a block and its tail can go in the box, and from that how large their model would be."""

from dataclasses import dataclass

import numpy as np

from shared.activations import Activation
from solver_service.milp.core.network import Network, derivative
from solver_service.milp.core.problem import Array, Mask

ENTRIES = {"identity": (0, 0), "relu": (2, 6), "leaky_relu": (4, 6), "hardtanh": (2, 10)}
"""For a unit that may switch on a sample: how often its rows hold its pre-activation, and their other entries."""


def kinks(activation: Activation) -> tuple[float, ...]:
    """Where an activation bends."""
    return {"identity": (), "hardtanh": (-1.0, 1.0)}.get(activation.name, (0.0,))


def switching(activation: Activation, low: Array, high: Array) -> Mask:
    """Which pre-activations in [low, high] can be on either side of a kink."""
    found = np.zeros(low.shape, dtype=bool)
    for kink in kinks(activation):
        found |= (low < kink) & (high > kink)
    return found


def through(weight: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Bounds [n, out] behind a layer [out, in + 1] of values within [low, high], both [n, in]; interval arithmetic."""
    # W+ takes low ends to the low end, W- takes high ends there.
    linear, bias = weight[:, :-1], weight[:, -1]
    up, down = np.maximum(linear, 0.0), np.minimum(linear, 0.0)
    return low @ up.T + high @ down.T + bias, high @ up.T + low @ down.T + bias


@dataclass(frozen=True)
class Size:
    """About how many coefficients a model has, and how many units may switch, counted on every sample."""

    nonzeros: float
    switching: int


def size_of(network: Network) -> Size:
    """How large the model of a block and its fixed tail would be.

    A unit that cannot switch has no column of its own: what comes after it is written in the columns before it.
    """
    n, h = network.scores.shape
    reach = np.abs(network.inputs) @ network.radius.T
    low, high = network.scores - reach, network.scores + reach
    # [n, width]: in how many columns each value is written; columns [n, 1]: how many there are so far.
    width = np.full((n, h), float(network.inputs.shape[1]))
    columns, total, switches = np.full((n, 1), float(network.block_size)), 0.0, 0
    layers = [(None, network.activation)] + [(layer.weight, layer.activation) for layer in network.tail]
    for weight, activation in layers:
        if weight is not None:
            width = np.minimum(width @ (weight[:, :-1] != 0).T, columns)
            low, high = through(weight, low, high)
        free = switching(activation, low, high)
        # A unit that may switch repeats its pre-activation in some rows and adds a value and its binaries.
        copies, others = ENTRIES[activation.name]
        total += float((copies * width + others)[free].sum())
        switches += int(free.sum())
        columns = columns + free.sum(axis=1, keepdims=True)
        # Behind it stands one column; behind an affine unit what it was written in, behind a flat one nothing.
        width = np.where(free, 1.0, width * (derivative(activation, (low + high) / 2) != 0))
        low, high = activation(low), activation(high)
    # Rows of the objective: two of one output each, or one of two for every class but the own.
    return Size(total + 2 * float(width.sum()), switches)
