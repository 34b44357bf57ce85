"""The pure float64 view of a block with its tail: what may move, what comes out, and how it changes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shared.activations import Activation
from shared.contracts import JobSpec
from shared.snapshot import FloatArray, Snapshot, TailLayer
from solver_service.milp.core.float32 import round_into_box
from solver_service.milp.core.moved import Moved, tail_with
from solver_service.milp.core.problem import Array, radii


@dataclass(frozen=True, eq=False)
class Layer:
    """One tail layer as float64 arrays: weight [out, in + 1] with the bias as last column, and its activation.

    `box` [out, in + 1] are the half-widths of its own box, None where the layer is fixed; `offset` [n, out], where
    there is one, is added to its pre-activations (a residual path around the block).
    """

    weight: Array
    activation: Activation
    box: Array | None = None
    offset: Array | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """A block to move, the layers behind it, and the box.

    A *step* is a vector [size]: the block's change [h, d+1] in units of `radius`, then, for each tail layer that may
    move, that layer's change in units of its `box`; every entry lies in [-1, 1].
    """

    snapshot: Snapshot
    radius: Array
    activation: Activation
    tail: tuple[Layer, ...]

    @cached_property
    def inputs(self) -> Array:
        """The block's inputs [n, d+1], a column of ones last; not there before it is asked for, as it may be large."""
        snap = self.snapshot
        found = np.empty((snap.samples, snap.inputs.shape[1] + 1))
        found[:, :-1] = snap.inputs
        found[:, -1] = 1.0
        return found

    @cached_property
    def scores(self) -> Array:
        """The block's pre-activations [n, h] at the snapshot's own weights."""
        snap = self.snapshot
        found = self.inputs[:, :-1] @ snap.weight.astype(np.float64).T
        for added in (snap.bias, snap.offset):
            if added is not None:
                found += added
        return np.asarray(found)

    @property
    def boxes(self) -> tuple[Array, ...]:
        """The half-widths of everything that moves, the block's first, in the order of a step."""
        return (self.radius, *(layer.box for layer in self.tail if layer.box is not None))

    @property
    def activations(self) -> tuple[Activation, ...]:
        """Every layer's activation, the block's first."""
        return (self.activation, *(layer.activation for layer in self.tail))

    @property
    def tail_moves(self) -> bool:
        """Whether any layer behind the block may move."""
        return len(self.boxes) > 1

    @property
    def block_size(self) -> int:
        """How many entries of a step belong to the block."""
        return int(self.radius.size)

    @property
    def size(self) -> int:
        """How many entries a step has."""
        return sum(int(box.size) for box in self.boxes)

    @property
    def elements(self) -> int:
        """About how many coefficients one run forward multiplies: N d h and its like for each layer."""
        per_sample = self.radius.size + sum(layer.weight.size for layer in self.tail)
        return self.snapshot.samples * int(per_sample)

    def outputs(self, steps: Array) -> Array:
        """Outputs [b, n, K] of several steps [b, size] at once."""
        return self.trace(steps).outputs

    def trace(self, steps: Array) -> "Trace":
        """Run several steps [b, size] forward, keeping every layer's pre-activations."""
        change, *moves = self.split(steps)
        weights: list[Array] = []
        before = [self.scores + self.inputs @ change.swapaxes(1, 2)]
        values = [np.asarray(self.activation(before[0]))]
        for layer in self.tail:
            weight = layer.weight[None]
            if layer.box is not None:
                weight = weight + moves.pop(0)
            weights.append(weight)
            now = values[-1] @ weight[:, :, :-1].swapaxes(1, 2) + weight[:, None, :, -1]
            before.append(now if layer.offset is None else now + layer.offset)
            values.append(np.asarray(layer.activation(before[-1])))
        return Trace(self, weights, before, values)

    def split(self, steps: Array) -> list[Array]:
        """The changes [b, out, in + 1] that steps [b, size] stand for, in weight units, one array for each box."""
        ends = np.cumsum([box.size for box in self.boxes])[:-1]
        parts = np.split(steps, ends, axis=1)
        return [box * part.reshape(-1, *box.shape) for box, part in zip(self.boxes, parts, strict=True)]

    def moved(self, step: Array) -> Moved:
        """The float32 weights that a step [size] leads to, rounded into the box, those of the tail included."""
        snap = self.snapshot
        block, *moves = (part[0] for part in self.split(np.clip(step, -1.0, 1.0)[None]))
        weight, bias = _rounded(snap.weight, snap.bias, block, self.radius)
        tail: dict[str, FloatArray] = {}
        for index, layer in enumerate(self.tail):
            if layer.box is not None:
                own = snap.tail[index]
                found, shift = _rounded(own.weight, own.bias, moves.pop(0), layer.box)
                tail[f"tail.{index}.weight"] = found
                if shift is not None:
                    tail[f"tail.{index}.bias"] = shift
        return Moved(weight, bias, tail)

    def tail_with(self, moved: Moved) -> tuple[TailLayer, ...]:
        """The snapshot's tail, with the layers that moved replaced."""
        return tail_with(self.snapshot, moved)

    def step_to(self, moved: Moved) -> Array:
        """The step [size] that leads nearest to given weights; tail layers that they do not name stay as they are."""
        snap = self.snapshot
        parts = [_units(moved.weight, moved.bias, snap.weight, snap.bias, self.radius)]
        for layer, own, other in zip(self.tail, snap.tail, self.tail_with(moved), strict=True):
            if layer.box is not None:
                parts.append(_units(other.weight, other.bias, own.weight, own.bias, layer.box))
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Trace:
    """A forward run of several steps: pre-activations and values of each layer, block first, [b, n, width].

    `weights` are the tail layers' own, [b or 1, out, in + 1].
    """

    network: Network
    weights: list[Array]
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
        parts: list[Array] = []
        for index in reversed(range(len(net.tail))):
            layer = net.tail[index]
            slope = slope * _rise(layer.activation, self.before[index + 1], slope, leak)
            if layer.box is not None:
                by_weight = slope.swapaxes(1, 2) @ self.values[index]
                whole = np.concatenate([by_weight, slope.sum(axis=1)[:, :, None]], axis=2)
                parts.append((layer.box * whole).reshape(len(slope), -1))
            slope = slope @ self.weights[index][:, :, :-1]
        slope = slope * _rise(net.activation, self.before[0], slope, leak)
        parts.append((net.radius * (slope.swapaxes(1, 2) @ net.inputs)).reshape(len(slope), -1))
        return np.concatenate(parts[::-1], axis=1)

    def jacobian(self) -> Array:
        """The derivative [n, K, size] of the outputs of a single step, at its activation pattern."""
        net = self.network
        n, k = self.outputs.shape[1:]
        chain = np.broadcast_to(np.eye(k), (n, k, k))
        parts: list[Array] = []
        for index in reversed(range(len(net.tail))):
            layer = net.tail[index]
            chain = chain * derivative(layer.activation, self.before[index + 1])[0][:, None, :]
            if layer.box is not None:
                values = np.concatenate([self.values[index][0], np.ones((n, 1))], axis=1)
                parts.append((np.einsum("nkm,nj->nkmj", chain, values) * layer.box).reshape(n, k, -1))
            chain = np.asarray(chain @ self.weights[index][0][:, :-1])
        chain = chain * derivative(net.activation, self.before[0])[0][:, None, :]
        parts.append((np.einsum("nki,nj->nkij", chain, net.inputs) * net.radius).reshape(n, k, -1))
        return np.concatenate(parts[::-1], axis=2)


def _rounded(
    weight: FloatArray, bias: FloatArray | None, shift: Array, box: Array
) -> tuple[FloatArray, FloatArray | None]:
    """A layer's weight and bias after a shift [out, in + 1], as float32 inside its box."""
    moved = round_into_box(weight, shift[:, :-1], box[:, :-1])
    return moved, None if bias is None else round_into_box(bias, shift[:, -1], box[:, -1])


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
    return activation.derivative(before)


def network_of(snapshot: Snapshot, spec: JobSpec) -> Network:
    """Build the view of a block and its tail; tail layers move as far as the spec's `tail_radius` lets each."""
    widths = spec.tail_radii(len(snapshot.tail))
    return Network(
        snapshot=snapshot,
        radius=radii(snapshot, spec),
        activation=snapshot.activation,
        tail=tuple(_layer(layer, width) for layer, width in zip(snapshot.tail, widths, strict=True)),
    )


def _layer(layer: TailLayer, half_width: float) -> Layer:
    """A tail layer in float64; one with a half-width of 0 is fixed, and a bias that is not there stays away."""
    bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    weight = np.hstack([layer.weight, bias[:, None]]).astype(np.float64)
    box = None
    if half_width > 0:
        box = np.full(weight.shape, float(half_width))
        box[:, -1] *= layer.bias is not None
    offset = None if layer.offset is None else layer.offset.astype(np.float64)
    return Layer(weight, layer.activation, box, offset)
