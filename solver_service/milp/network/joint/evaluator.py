"""Value and gradient of a whole network for one point at a time, as fast as numpy gives them: what descents live on.

Arrays are [width, n], so that every layer is one product of a small matrix with a long one, and buffers are kept
between calls: three to five times faster than a batch of one in `core.network`.
"""

from copy import copy

import numpy as np

from shared.activations import Activation
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.stand_ins import StandIn

Real = Array
"""Float64, or float32 where an evaluator computes in that."""
PAID_WIDTH = 1e-3
"""How wide, as a part of the box, the kink of a price is rounded off."""
LEAST_WIDTH = 1e-150
"""And at least: in a box of no width, too, its square is above 0, and so the slope no 0 / 0."""


class Evaluator:
    """A stand-in's value and slope over *variables* [size]: the weights that may move, in units of their usual size.

    A block weight counts in units of 1 / rms of its input, a weight of the last layer in units of the targets' spread,
    so that the usual scales of initial weights fit whatever the data's units are. `lower` and `upper` are the box.
    `rows` choose samples, all of them by default; `dtype` is what the products are computed in.
    """

    def __init__(
        self,
        network: Network,
        stand_in: StandIn,
        rows: Index | None = None,
        dtype: type[np.floating] = np.float64,
        scaling: Scaling | None = None,
    ) -> None:
        self.network, self.stand_in = network, stand_in
        self.prices: Array | None = None
        """What a unit of each variable's way from the snapshot costs [size], where constraints name a price."""
        self.l2 = 0.0
        """What the squared norm of the block's weights, biases apart, costs."""
        self.scaling: Scaling = Scaling(network) if scaling is None else scaling
        chosen = slice(None) if rows is None else rows
        inputs = network.snapshot.inputs[chosen]
        whole = np.ones((len(inputs), inputs.shape[1] + 1), dtype)
        whole[:, :-1] = inputs
        self._inputs = whole.T
        offsets = [network.snapshot.offset, *(layer.offset for layer in network.tail)]
        self._offsets = [None if o is None else np.ascontiguousarray(o[chosen].T, dtype=dtype) for o in offsets]
        self._activations = [network.activation, *(layer.activation for layer in network.tail)]
        self._values = [np.ones((len(own) + 1, len(inputs)), dtype) for own in self.scaling.own]
        self._before = [np.empty((len(own), len(inputs)), dtype) for own in self.scaling.own]
        self._dtype = dtype

    @property
    def lower(self) -> Array:
        """The lowest each variable may be [size]."""
        return self.scaling.lower

    @property
    def upper(self) -> Array:
        """The highest each variable may be [size]."""
        return self.scaling.upper

    @property
    def samples(self) -> int:
        """How many samples are run through."""
        return int(self._inputs.shape[1])

    def following(self, stand_in: StandIn) -> "Evaluator":
        """The same with another function to follow; the buffers are shared."""
        found = copy(self)
        found.stand_in = stand_in
        return found

    def within(self, lower: Array, upper: Array) -> "Evaluator":
        """The same in a smaller box; the buffers are shared."""
        found = copy(self)
        found.scaling = self.scaling.within(lower, upper)
        return found

    def part(self, rows: Index, dtype: type[np.floating]) -> "Evaluator":
        """The same for some of the samples; its stand-in is still that of all, so only `jacobian` and outputs serve."""
        return Evaluator(self.network, self.stand_in, rows, dtype, self.scaling)

    def outputs(self, variables: Array) -> Real:
        """Outputs [K, n]; the array is overwritten by the next call."""
        self._weights = self.scaling.weights(variables, self._dtype)
        values: Real = self._inputs
        for index, weight in enumerate(self._weights):
            before, after = self._before[index], self._values[index]
            np.matmul(weight, values, out=before)
            offset = self._offsets[index]
            if offset is not None:
                before += offset
            _activate(self._activations[index], before, after[:-1])
            values = after
        return self._values[-1][:-1]

    def value(self, variables: Array) -> float:
        """The stand-in's value alone."""
        value = self.stand_in(self.outputs(variables))[0]
        if self.l2:
            value += self.l2 * float(np.square(self._weights[0][:, :-1]).sum())
        return value if self.prices is None else value + self._cost(variables)

    def __call__(self, variables: Array) -> tuple[float, Array]:
        """The stand-in's value and its gradient [size], the kink of a price rounded off."""
        value, gradient = self.unpaid(variables)
        if self.prices is None:
            return value, gradient
        paid, more = self._paid(variables)
        return value + paid, gradient + more

    def unpaid(self, variables: Array) -> tuple[float, Array]:
        """The same without what movement costs."""
        value, slope = self.stand_in(self.outputs(variables))
        parts = self.pull_back(slope, 0)
        if self.l2:
            block = self._weights[0][:, :-1]
            value += self.l2 * float(np.square(block).sum())
            parts[0][:, :-1] += 2 * self.l2 * block
        return value, self.scaling.gradient(parts)

    @property
    def outside(self) -> float:
        """What the way costs from the snapshot to the nearest point of the box, where that does not hold it."""
        own = self.scaling.own_variables
        return self._cost(np.clip(own, self.lower, self.upper))

    def _cost(self, variables: Array) -> float:
        """What the way from the snapshot costs."""
        assert self.prices is not None
        return float(self.prices @ np.abs(variables - self.scaling.own_variables))

    def _paid(self, variables: Array) -> tuple[float, Array]:
        """What the way from the snapshot costs, its kink rounded off, and its slope [size]."""
        assert self.prices is not None
        way = variables - self.scaling.own_variables
        width = PAID_WIDTH * (self.upper - self.lower) + LEAST_WIDTH
        root = np.sqrt(np.square(way) + np.square(width))
        return float(self.prices @ (root - width)), self.prices * way / root

    def pull_back(self, slope: Real, last: int) -> list[Array]:
        """The derivatives by the weights of layers that move, down to layer `last`, from that by the outputs [K, n].

        They are those at the last variables seen.
        """
        parts: list[Array] = []
        for index in reversed(range(last, len(self._weights))):
            slope = self.through(index, slope)
            if self.scaling.moves[index]:
                parts.append(slope @ self.entering(index).T)
            if index > last:
                slope = np.dot(self._weights[index][:, :-1].T, slope)
        return parts[::-1]

    def slopes_before(self, index: int) -> Real:
        """The stand-in's derivative by the pre-activations [width, n] of a layer, at the last variables seen."""
        slope = self.stand_in(self._values[-1][:-1])[1]
        for layer in reversed(range(index, len(self._weights))):
            slope = self.through(layer, slope)
            if layer > index:
                slope = np.dot(self._weights[layer][:, :-1].T, slope)
        return slope

    def jacobian(self, variables: Array, scale: Array) -> Array:
        """The outputs' derivatives [K, weights, n] by each weight of the layers that move, times `scale` [n]."""
        k, n = self.outputs(variables).shape
        found = np.empty((k, self.scaling.weight_count, n), self._dtype)
        end = self.scaling.weight_count
        chain = np.zeros((k, k, n), self._dtype)
        chain[np.arange(k), np.arange(k)] = scale
        for index in reversed(range(len(self._weights))):
            chain = self.through(index, chain)
            before = self.entering(index)
            if self.scaling.moves[index]:
                size = chain.shape[1] * len(before)
                part = found[:, end - size : end].reshape(k, chain.shape[1], len(before), n)
                np.multiply(chain[:, :, None, :], before, out=part)
                end -= size
            if index:
                chain = self._weights[index][:, :-1].T @ chain
        return found

    def through(self, index: int, slope: Real) -> Real:
        """The derivative by a layer's pre-activations from that by its values; the kink of a ReLU counts as flat."""
        activation = self._activations[index]
        match activation.name:
            case "identity":
                return slope
            case "relu":
                return np.asarray(slope * (self._before[index] > 0))
        return np.asarray(slope * activation.derivative(self._before[index]).astype(self._dtype, copy=False))

    def hidden(self, layer: int) -> Real:
        """Values [width + 1, n] of a layer at the last variables seen, a row of ones last."""
        return self._values[layer]

    def entering(self, layer: int) -> Real:
        """What enters a layer [width + 1, n] at the last variables seen, a row of ones last."""
        return self._inputs if layer == 0 else self._values[layer - 1]

    def activation(self, layer: int) -> Activation:
        """A layer's activation, the block's first."""
        return self._activations[layer]

    def offset(self, layer: int) -> Real | float:
        """What is added to a layer's pre-activations [width, n]."""
        offset = self._offsets[layer]
        return 0.0 if offset is None else offset


def _activate(activation: Activation, before: Real, after: Real) -> None:
    match activation.name:
        case "identity":
            after[...] = before
        case "relu":
            np.maximum(before, 0.0, out=after)
        case _:
            after[...] = activation(before)
