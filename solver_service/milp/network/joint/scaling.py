"""The units in which descents see weights, so that starts and steps of size 1 fit whatever the data's units are."""

from copy import copy

import numpy as np

from shared.snapshot import regression_targets
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array, Index

MODERATE = 1e6
SAME, APART = 1e-9, 2.0
"""Targets within this part of their size of their mean are all the same; units that differ by less than so many times
are as good."""
LOOKED_AT = 5000
"""About so many samples tell how large inputs are."""


class Scaling:
    """The way between steps in [-1, 1] and variables, and from variables to every layer's weights [out, in + 1].

    `limits` [h, d+1] are the lowest and the highest block weights where constraints cut the box; `margin` is what
    differences of a classification's outputs count in.
    """

    def __init__(self, network: Network, limits: tuple[Array, Array] | None = None, *, margin: float = 1.0) -> None:
        self.network = network
        self.own = [_block(network), *(layer.weight for layer in network.tail)]
        self.moves = [True, *(layer.box is not None for layer in network.tail)]
        moving = [own for own, moves in zip(self.own, self.moves, strict=True) if moves]
        ends = np.cumsum([own.size for own in moving])
        self._parts = [slice(end - own.size, end) for own, end in zip(moving, ends, strict=True)]
        box = np.concatenate([box.ravel() for box in network.boxes])
        units = _units(network, self.own, margin)
        self._unit = np.concatenate([u.ravel() for u, moves in zip(units, self.moves, strict=True) if moves])
        self._start = np.concatenate([own.ravel() for own in moving])
        self.free = np.flatnonzero(box > 0)
        self._whole = self.free.size == box.size
        self._box, self._center, self.unit = box[self.free], self._start[self.free], self._unit[self.free]
        low, high = self._center - self._box, self._center + self._box
        if limits is not None:
            inside = self.free[self.free < network.block_size]
            low[: inside.size] = np.maximum(low[: inside.size], limits[0].ravel()[inside])
            high[: inside.size] = np.minimum(high[: inside.size], limits[1].ravel()[inside])
        self.lower: Array = low / self.unit
        self.upper: Array = np.maximum(low, high) / self.unit

    @property
    def size(self) -> int:
        """How many variables there are."""
        return int(self.free.size)

    @property
    def weight_count(self) -> int:
        """How many weights the layers that move have, those in a box of width 0 included."""
        return int(self._start.size)

    @property
    def dtype(self) -> type[np.floating]:
        """What rough work may be computed in: float32, unless units are so far apart that squares would overflow."""
        moderate = self.unit.max(initial=1.0) < MODERATE and self.unit.min(initial=1.0) > 1 / MODERATE
        return np.float32 if moderate else np.float64

    @property
    def own_variables(self) -> Array:
        """The variables at the snapshot's own weights."""
        return np.asarray(self._center / self.unit)

    def within(self, lower: Array, upper: Array) -> "Scaling":
        """The same in a smaller box."""
        found = copy(self)
        found.lower, found.upper = lower, upper
        return found

    def variables(self, step: Array) -> Array:
        """The variables that a step leads to."""
        return np.asarray((self._center + self._box * step[self.free]) / self.unit)

    def step(self, variables: Array) -> Array:
        """The step that leads to given variables, inside the box."""
        found = np.zeros(self._start.size)
        found[self.free] = np.clip((variables * self.unit - self._center) / self._box, -1.0, 1.0)
        return found

    def weights(self, variables: Array, dtype: type[np.floating] = np.float64) -> list[Array]:
        """Every layer's weights [out, in + 1] at given variables."""
        full = variables * self.unit
        if not self._whole:
            full, moved = self._start.copy(), full
            full[self.free] = moved
        full = full.astype(dtype, copy=False)
        parts = iter(self._parts)
        pairs = zip(self.own, self.moves, strict=True)
        return [
            full[next(parts)].reshape(own.shape) if moves else own.astype(dtype, copy=False) for own, moves in pairs
        ]

    def from_weights(self, weights: list[Array]) -> Array:
        """The variables of given weights of every layer, clipped into the box."""
        return np.clip(self.raw(weights), self.lower, self.upper)

    def units(self, variables: Index) -> Index:
        """The block's unit that each of the block's variables, by number, belongs to."""
        return np.asarray(self.free[variables] // self.own[0].shape[1])

    def with_block(self, variables: Array, weight: Array) -> Array:
        """The variables with the block's weights [h, d] replaced, clipped into the box; biases and tail stay."""
        size = weight.shape[0] * (weight.shape[1] + 1)
        inside = self.free[: np.searchsorted(self.free, size)]
        row, column = np.divmod(inside, weight.shape[1] + 1)
        own = np.flatnonzero(column < weight.shape[1])
        found = variables.copy()
        found[own] = np.clip(weight[row[own], column[own]] / self.unit[own], self.lower[own], self.upper[own])
        return found

    def raw(self, weights: list[Array]) -> Array:
        """The variables of given weights of every layer, wherever they lie."""
        moving = [weight.ravel() for weight, moves in zip(weights, self.moves, strict=True) if moves]
        return np.asarray(np.concatenate(moving)[self.free] / self.unit)

    def in_units(self, layer: int) -> Array:
        """What each weight of a moving layer counts in [out, in + 1]."""
        number = sum(self.moves[:layer])
        return self._unit[self._parts[number]].reshape(self.own[layer].shape)

    def gradient(self, by_weight: list[Array]) -> Array:
        """Derivatives by the variables from those by every moving layer's weights."""
        found = np.concatenate([part.ravel() for part in by_weight])
        return np.asarray((found if self._whole else found[self.free]) * self.unit, dtype=np.float64)


def _block(network: Network) -> Array:
    """The block's own weights [h, d+1]."""
    snap = network.snapshot
    bias = np.zeros(len(snap.weight)) if snap.bias is None else snap.bias
    return np.column_stack([snap.weight, bias]).astype(np.float64)


def _units(network: Network, own: list[Array], margin: float) -> list[Array]:
    """What each weight counts in: for the block 1 / rms of its input, for the last layer the targets' spread.

    That is about the mean where this is far from 0: it is for a bias to reach, or for all units together. Where the box
    of the last layer ends long before, a weight counts in what it can come to.
    """
    units = [np.ones(weight.shape) for weight in own]
    inputs = network.snapshot.inputs[:: max(1, network.snapshot.samples // LOOKED_AT)].astype(np.float64)
    size = np.sqrt(np.mean(np.square(inputs), axis=0))
    units[0][:, :-1] /= np.where(size > 0, size, 1.0)
    if not network.tail or network.activations[-1].name not in ("identity", "relu", "leaky_relu"):
        return units
    if network.snapshot.task == "regression":
        units[-1] *= _spread(regression_targets(network.snapshot))[:, None]
    else:
        units[-1] *= margin
    box = network.tail[-1].box
    if box is not None:
        reach = np.abs(own[-1]) + box
        units[-1] = np.where((reach > 0) & (APART * reach < units[-1]), reach, units[-1])
    return units


def _spread(targets: Array) -> Array:
    """How far each output's targets [n, K] usually are from 0, or from their mean where that is much less [K]."""
    size, found = np.sqrt(np.mean(np.square(targets), axis=0)), targets.std(axis=0)
    found = np.where(APART * found < size, found, size)
    return np.where(found > SAME * size, found, np.where(size > 0, size, 1.0))
