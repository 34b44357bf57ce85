"""The pure float64 view of a block with its tail: what may move, what comes out, and how it changes."""

from dataclasses import dataclass

import numpy as np

from shared.activations import Activation
from shared.contracts import JobSpec
from shared.snapshot import FloatArray, Snapshot, TailLayer
from solver_service.milp.core.float32 import round_into_box
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, radii


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer as float64 arrays: weight [out, in + 1] with the bias as last column, and its activation."""

    weight: Array
    activation: Activation


@dataclass(frozen=True, eq=False)
class Network:
    """A block to move, the layers behind it, and the box.

    A *step* is a vector [size]: the block's change [h, d+1] in units of `radius`, then, if the tail's last layer may
    move too, that layer's change in units of `tail_box`; every entry lies in [-1, 1]. `scores` [n, h] are the
    pre-activations at the snapshot's own weights, `inputs` [n, d+1] end with a column of ones.
    """

    snapshot: Snapshot
    inputs: Array
    scores: Array
    radius: Array
    activation: Activation
    tail: tuple[Layer, ...]
    tail_box: Array | None

    @property
    def block_size(self) -> int:
        """How many entries of a step belong to the block."""
        return int(self.radius.size)

    @property
    def size(self) -> int:
        """How many entries a step has."""
        return self.block_size + (0 if self.tail_box is None else int(self.tail_box.size))

    def outputs(self, steps: Array) -> Array:
        """Outputs [b, n, K] of several steps [b, size] at once."""
        return self.trace(steps).outputs

    def trace(self, steps: Array) -> "Trace":
        """Run several steps [b, size] forward, keeping every layer's pre-activations."""
        change, last = self._parts(steps)
        before = [self.scores + self.inputs @ (self.radius * change).swapaxes(1, 2)]
        values = [np.asarray(self.activation(before[0]))]
        for index, layer in enumerate(self.tail):
            weight = layer.weight[None]
            if last is not None and index == len(self.tail) - 1:
                weight = weight + last
            before.append(values[-1] @ weight[:, :, :-1].swapaxes(1, 2) + weight[:, None, :, -1])
            values.append(np.asarray(layer.activation(before[-1])))
        return Trace(self, change, last, before, values)

    def moved(self, step: Array) -> Moved:
        """The float32 weights that a step [size] leads to, rounded into the box; with the tail's, if it may move."""
        snap = self.snapshot
        change, last = self._parts(np.clip(step, -1.0, 1.0)[None])
        shift = self.radius * change[0]
        weight = round_into_box(snap.weight, shift[:, :-1], self.radius[:, :-1])
        bias = None if snap.bias is None else round_into_box(snap.bias, shift[:, -1], self.radius[:, -1])
        if last is None or self.tail_box is None:
            return Moved(weight, bias)
        end, box = snap.tail[-1], self.tail_box
        tail = {self._last("weight"): round_into_box(end.weight, last[0][:, :-1], box[:, :-1])}
        if end.bias is not None:
            tail[self._last("bias")] = round_into_box(end.bias, last[0][:, -1], box[:, -1])
        return Moved(weight, bias, tail)

    def tail_with(self, moved: Moved) -> tuple[TailLayer, ...]:
        """The snapshot's tail, its last layer replaced if that moved."""
        tail = self.snapshot.tail
        if not moved.tail:
            return tail
        return (*tail[:-1], TailLayer(*self._end(moved), tail[-1].activation))

    def step_to(self, moved: Moved) -> Array:
        """The step [size] that leads nearest to given weights; a tail that they do not name is left as it is."""
        snap = self.snapshot
        block = _units(moved.weight, moved.bias, snap.weight, snap.bias, self.radius)
        if self.tail_box is None:
            return block
        end = snap.tail[-1]
        return np.concatenate([block, _units(*self._end(moved), end.weight, end.bias, self.tail_box)])

    def _last(self, part: str) -> str:
        """The wire name of a part of the tail's last layer."""
        return f"tail.{len(self.snapshot.tail) - 1}.{part}"

    def _end(self, moved: Moved) -> tuple[FloatArray, FloatArray | None]:
        """The weight and bias of the tail's last layer, moved or not."""
        end = self.snapshot.tail[-1]
        return moved.tail.get(self._last("weight"), end.weight), moved.tail.get(self._last("bias"), end.bias)

    def _parts(self, steps: Array) -> tuple[Array, Array | None]:
        """The block's changes [b, h, d+1] in units of the radius, and the last layer's own changes or None."""
        change = steps[:, : self.block_size].reshape(-1, *self.radius.shape)
        if self.tail_box is None:
            return change, None
        return change, self.tail_box * steps[:, self.block_size :].reshape(-1, *self.tail_box.shape)


@dataclass(frozen=True, eq=False)
class Trace:
    """A forward run of several steps: pre-activations and values of each layer, block first, [b, n, width]."""

    network: Network
    change: Array
    last: Array | None
    before: list[Array]
    values: list[Array]

    @property
    def outputs(self) -> Array:
        """Outputs [b, n, K]."""
        return self.values[-1]

    def pull_back(self, slope: Array, leak: Array | float = 0.0) -> Array:
        """The gradient [b, size] of a scalar whose derivative by the outputs is `slope` [b, n, K].

        With a `leak` (broadcast to [b, n, width]) flat pieces count as if they rose by as much wherever that leads
        down and off them: the way back to life for units that are dead on all samples.
        """
        net = self.network
        last_gradient: Array | None = None
        for index in reversed(range(len(net.tail))):
            slope = slope * _rise(net.tail[index].activation, self.before[index + 1], slope, leak)
            weight = net.tail[index].weight[None]
            if self.last is not None and index == len(net.tail) - 1:
                assert net.tail_box is not None
                by_weight = slope.swapaxes(1, 2) @ self.values[index]
                whole = np.concatenate([by_weight, slope.sum(axis=1)[:, :, None]], axis=2)
                last_gradient = (net.tail_box * whole).reshape(len(slope), -1)
                weight = weight + self.last
            slope = slope @ weight[:, :, :-1]
        slope = slope * _rise(net.activation, self.before[0], slope, leak)
        block = (net.radius * (slope.swapaxes(1, 2) @ net.inputs)).reshape(len(slope), -1)
        return block if last_gradient is None else np.concatenate([block, last_gradient], axis=1)

    def jacobian(self) -> Array:
        """The derivative [n, K, size] of the outputs of a single step, at its activation pattern."""
        net = self.network
        n, k = self.outputs.shape[1:]
        chain = np.broadcast_to(np.eye(k), (n, k, k))
        last: Array | None = None
        for index in reversed(range(len(net.tail))):
            chain = chain * derivative(net.tail[index].activation, self.before[index + 1])[0][:, None, :]
            weight = net.tail[index].weight
            if self.last is not None and index == len(net.tail) - 1:
                assert net.tail_box is not None
                values = np.concatenate([self.values[index][0], np.ones((n, 1))], axis=1)
                last = np.einsum("nkm,nj->nkmj", chain, values) * net.tail_box
                weight = weight + self.last[0]
            chain = np.asarray(chain @ weight[:, :-1])
        chain = chain * derivative(net.activation, self.before[0])[0][:, None, :]
        block = (np.einsum("nki,nj->nkij", chain, net.inputs) * net.radius).reshape(n, k, -1)
        return block if last is None else np.concatenate([block, last.reshape(n, k, -1)], axis=2)


def _units(
    weight: FloatArray, bias: FloatArray | None, own: FloatArray, own_bias: FloatArray | None, box: Array
) -> Array:
    """A layer's way from its own weights to others, in units of the box [out, in + 1], clipped and flat."""
    shift = np.zeros_like(box)
    shift[:, :-1] = weight.astype(np.float64) - own
    if bias is not None and own_bias is not None:
        shift[:, -1] = bias.astype(np.float64) - own_bias
    return np.clip(np.divide(shift, box, out=np.zeros_like(shift), where=box > 0), -1.0, 1.0).ravel()


def _rise(activation: Activation, before: Array, slope: Array, leak: Array | float) -> Array:
    """The derivative, and `leak` on flat pieces from which going down `slope` leads away."""
    leads_off = np.where(before < 0, slope < 0, slope > 0)
    return np.maximum(derivative(activation, before), np.where(leads_off, leak, 0.0))


def derivative(activation: Activation, before: Array) -> Array:
    """The slope of an activation at its pre-activations; at a kink, that of the right side."""
    match activation.name:
        case "relu" | "leaky_relu":
            return np.where(before >= 0, 1.0, activation.slope)
        case "hardtanh":
            return ((before >= -1) & (before < 1)).astype(np.float64)
    return np.ones_like(before)


def network_of(snapshot: Snapshot, spec: JobSpec) -> Network:
    """Build the view of a block and its tail; the tail's last layer moves if the spec has a `tail_radius`."""
    inputs = np.hstack([snapshot.inputs.astype(np.float64), np.ones((snapshot.samples, 1))])
    scores = snapshot.inputs.astype(np.float64) @ snapshot.weight.astype(np.float64).T
    for added in (snapshot.bias, snapshot.offset):
        scores = scores if added is None else scores + added.astype(np.float64)
    return Network(
        snapshot=snapshot,
        inputs=inputs,
        scores=scores,
        radius=radii(snapshot, spec),
        activation=snapshot.activation,
        tail=tuple(Layer(_with_bias(layer), layer.activation) for layer in snapshot.tail),
        tail_box=_tail_box(snapshot, spec),
    )


def _with_bias(layer: TailLayer) -> Array:
    bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return np.hstack([layer.weight, bias[:, None]]).astype(np.float64)


def _tail_box(snapshot: Snapshot, spec: JobSpec) -> Array | None:
    if not snapshot.tail or spec.tail_radius == 0:
        return None
    last = snapshot.tail[-1]
    box = np.full((last.weight.shape[0], last.weight.shape[1] + 1), spec.tail_radius)
    if last.bias is None:
        box[:, -1] = 0.0
    return box
