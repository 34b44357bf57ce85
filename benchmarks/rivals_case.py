"""What every rival sees of a snapshot: a vector in a box, its scores and slopes, and a ledger that recounts each offer.

A rival's value is nobody's word but `shared.objectives` and `shared.constraints`, from float32 weights inside the box.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.activations import Activation
from shared.constraints import grid_steps, movement_cost, nearest_multiple, selected, sign_limits, violations
from shared.contracts import JobSpec
from shared.objectives import sample_weights
from shared.snapshot import FloatArray, Snapshot, TailLayer

Array = NDArray[Any]
"""float64; in descents on classes also float32, which is twice as fast."""
Layers = list[tuple[Array, Array | None]]
NOT_IN_NOTES = {"snapshot", "limits", "solver"}


def spec_of(note: dict[str, Any], time_s: float, seed: int, nodes: int | None = None) -> JobSpec:
    """The job that a snapshot's note describes: every field of a spec that the note names."""
    fields = {name: note[name] for name in JobSpec.model_fields.keys() & note.keys() - NOT_IN_NOTES}
    limits = {"time_s": time_s, "memory_mb": 4000, "nodes": nodes}
    return JobSpec(**fields, limits=limits, solver={"seed": seed})


@dataclass
class Clock:
    """How long a rival may go on: seconds, or a number of steps where a run has to be the same on every machine.

    `read` is the clock: the wall's, or the processor's where other work runs beside it.
    """

    seconds: float = math.inf
    steps: float = math.inf
    taken: int = 0
    read: Callable[[], float] = time.perf_counter
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.read()

    @property
    def elapsed(self) -> float:
        """Seconds since the rival began."""
        return self.read() - self.began

    @property
    def used(self) -> float:
        """The share of the allowance that is gone."""
        return max(self.elapsed / self.seconds if math.isfinite(self.seconds) else 0.0, self.taken / self.steps)

    def step(self) -> bool:
        """Count a step and say whether it may be taken."""
        self.taken += 1
        return self.used < 1.0


@dataclass(frozen=True, eq=False)
class Part:
    """A layer: where its weight [out, in] and bias [out] stand in the vector, or their fixed values."""

    weight: slice | FloatArray
    bias: slice | FloatArray | None
    shape: tuple[int, int]
    activation: Activation


class Case:
    """A snapshot as the search for a vector [P]: block weight, block bias, then those of the tail layers that move."""

    def __init__(self, snapshot: Snapshot, spec: JobSpec, clock: Clock) -> None:
        self.snapshot, self.spec, self.clock = snapshot, spec, clock
        self.inputs = snapshot.inputs.astype(np.float64)
        self.weights = sample_weights(snapshot)
        self._lay_out()
        low, high = self.start - self._radius, self.start + self._radius
        floor, ceiling = sign_limits(spec.constraints, snapshot.weight.shape)
        size = snapshot.weight.size
        # where signs leave nothing of the box, its nearest side stands for it, and the ledger keeps nothing
        low[:size] = np.minimum(np.maximum(low[:size], floor.ravel()), high[:size])
        high[:size] = np.maximum(np.minimum(high[:size], ceiling.ravel()), low[:size])
        self.low, self.high, self.radius = low, high, np.maximum(0.0, (high - low) / 2)
        self._low32, self._high32 = _inside(low, 1), _inside(high, -1)
        self.best, self.vector = math.inf, self.start
        self.history: list[tuple[float, int, float]] = []  # (seconds, steps, value) of every improvement
        self.start_value = self.value(self.start)
        self.offer(self.start)

    @property
    def is_final(self) -> bool:
        """True where the block is the output layer and nothing else moves."""
        return self.snapshot.is_final_identity

    def layers(self, vector: Array) -> Layers:
        """Weight and bias of every layer, as float64 views where they move."""

        def of(found: slice | FloatArray, shape: tuple[int, ...]) -> Array:
            values = vector[found] if isinstance(found, slice) else found
            return np.asarray(values, dtype=vector.dtype).reshape(shape)

        return [
            (of(part.weight, part.shape), None if part.bias is None else of(part.bias, part.shape[:1]))
            for part in self.parts
        ]

    def forward(self, vector: Array, inputs: Array | None = None, rows: Any = slice(None)) -> list[Array]:
        """The inputs [n, d] of the chosen rows, and behind each layer its values before and after the activation."""
        values = (self.inputs if inputs is None else inputs)[rows]
        trace = [values]
        for index, (weight, bias) in enumerate(self.layers(vector)):
            values = values @ weight.T
            values = values if bias is None else values + bias
            if index == 0 and self.snapshot.offset is not None:
                values = values + self.snapshot.offset[rows]
            trace += [values, self.parts[index].activation(values)]
            values = trace[-1]
        return trace

    def scores(self, vector: Array) -> Array:
        """The outputs [N, K]."""
        return np.asarray(self.forward(vector)[-1])

    def backward(self, vector: Array, trace: list[Array], slope: Array) -> Array:
        """The gradient [P] of a loss whose slopes by the outputs of `trace` are `slope` [n, K]."""
        gradient = np.zeros_like(vector)
        layers = self.layers(vector)
        for index in reversed(range(len(layers))):
            part, before = self.parts[index], trace[2 * index]
            slope = slope * kinks(part.activation, trace[2 * index + 1])
            if isinstance(part.weight, slice):
                gradient[part.weight] = (slope.T @ before).ravel()
            if isinstance(part.bias, slice):
                gradient[part.bias] = slope.sum(axis=0)
            if index:
                slope = slope @ layers[index][0]
        return gradient

    def clip(self, vector: Array) -> Array:
        """The nearest vector in the box."""
        return np.asarray(np.minimum(np.maximum(vector, self.low), self.high))

    def value(self, vector: Array) -> float:
        """What the job minimises, at this very vector."""
        value = self.spec.goal.of_outputs(self.snapshot, self.scores(vector))
        if any(constraint.type == "movement_cost" for constraint in self.spec.constraints):
            value += movement_cost(self.spec.constraints, self.snapshot, self._block(vector)[0])
        return value

    def broken(self, vector: Array) -> float:
        """By how much float32 weights break the constraints, added up; 0 where they keep them all."""
        found = violations(self.spec.constraints, self.snapshot, *self._block(vector)) if self.spec.constraints else []
        return sum(violation.amount for violation in found)

    def offer(self, vector: Array) -> float:
        """Round a vector into the box and onto grids, recount it, and keep it if it is the best so far."""
        vector = self.rounded(vector)
        value = self.value(vector)
        outside = bool((vector < self.low).any() or (vector > self.high).any())
        if value < self.best and not outside and self.broken(vector) == 0:
            self.best, self.vector = value, vector
            self.history.append((self.clock.elapsed, self.clock.taken, value))
        return value

    def rounded(self, vector: Array) -> Array:
        """The nearest float32 vector in the box [P], on its grids, with as many zeros as are asked for."""
        with np.errstate(over="ignore"):
            vector = np.clip(vector.astype(np.float32), self._low32, self._high32).astype(np.float64)
        shape, size = self.snapshot.weight.shape, self.snapshot.weight.size
        steps = grid_steps(self.spec.constraints, shape).ravel()
        if (steps > 0).any():
            on = np.flatnonzero(steps > 0)
            inner = np.ceil(self.low[on] / steps[on]), np.floor(self.high[on] / steps[on])
            multiples = np.minimum(np.maximum(np.rint(vector[on] / steps[on]), inner[0]), inner[1])
            vector[on] = nearest_multiple(multiples * steps[on], steps[on])
        for constraint in self.spec.constraints:
            if constraint.type == "max_nonzero":
                chosen = np.flatnonzero(
                    selected(constraint, shape).ravel() & (self.low[:size] <= 0) & (self.high[:size] >= 0)
                )
                rank = chosen[np.argsort(-np.abs(vector[chosen]))]
                others = int(selected(constraint, shape).sum()) - len(chosen)
                vector[rank[max(0, int(constraint.value) - others) :]] = 0.0
        return vector

    def slope(self, scores: Array) -> tuple[float, Array]:
        """The objective at these outputs and its slopes [N, K], by differences: right for any objective."""
        scores = scores.astype(np.float64)
        goal, step = self.spec.goal, 1e-6 * (1.0 + np.abs(scores).max())
        base = goal.sample_costs(self.snapshot, scores)
        slopes = np.empty_like(scores)
        for output in range(scores.shape[1]):
            moved = scores.copy()
            moved[:, output] += step
            ahead = goal.sample_costs(self.snapshot, moved)
            moved[:, output] -= 2 * step
            slopes[:, output] = (ahead - goal.sample_costs(self.snapshot, moved)) / (2 * step)
        return float(base.sum()), slopes

    def _block(self, vector: Array) -> tuple[FloatArray, FloatArray | None]:
        weight, bias = self.layers(vector)[0]
        return weight.astype(np.float32), None if bias is None else bias.astype(np.float32)

    def _lay_out(self) -> None:
        """Give every layer that moves its place in the vector, and every entry its radius."""
        snapshot, spec = self.snapshot, self.spec
        block = TailLayer(snapshot.weight, snapshot.bias, snapshot.activation)
        shape = snapshot.weight.shape
        weight_radius = spec.radius if snapshot.radius is None else snapshot.radius
        bias_radius = snapshot.bias_radius if spec.bias_radius is None else spec.bias_radius
        if bias_radius is None:
            bias_radius = spec.radius if snapshot.radius is None else 0.0
        assert weight_radius is not None, "JobSpec.check refuses a job without any radius"
        radii = _tail_radii(spec.tail_radius, len(snapshot.tail))
        self.parts: list[Part] = []
        start: list[Array] = []
        radius: list[Array] = []
        for layer, (wide, bias_wide) in zip(
            (block, *snapshot.tail), [(weight_radius, bias_radius), *((r, r) for r in radii)], strict=True
        ):
            moves = layer is block or wide > 0
            places: list[slice | FloatArray | None] = []
            for tensor, width in ((layer.weight, wide), (layer.bias, bias_wide)):
                if tensor is None or not moves:
                    places.append(tensor)
                    continue
                at = sum(map(len, start))
                places.append(slice(at, at + tensor.size))
                start.append(tensor.astype(np.float64).ravel())
                radius.append(np.broadcast_to(np.asarray(width, np.float64), tensor.shape).ravel())
            weight = places[0]
            assert weight is not None, "every layer has a weight"
            self.parts.append(Part(weight, places[1], (layer.weight.shape[0], layer.weight.shape[1]), layer.activation))
        assert len(self.parts[0].shape) == len(shape)
        self.start, self._radius = np.concatenate(start), np.concatenate(radius)


def kinks(activation: Activation, values: Array) -> Array | float:
    """The slope of an activation at these values before it."""
    match activation.name:
        case "identity":
            return 1.0
        case "relu":
            return (values > 0).astype(values.dtype)
        case "leaky_relu":
            return np.where(values > 0, 1.0, activation.slope).astype(values.dtype)
        case "hardtanh":
            return (np.abs(values) < 1).astype(values.dtype)
    step = 1e-6
    return np.asarray((activation(values + step) - activation(values - step)) / (2 * step), dtype=values.dtype)


def _tail_radii(radius: float | Sequence[float], layers: int) -> list[float]:
    """How far each tail layer may move: a single radius is the last one's."""
    if isinstance(radius, (int, float)):
        return [0.0] * (layers - 1) + [float(radius)] * min(1, layers)
    return [float(value) for value in radius]


def _inside(ends: Array, direction: int) -> FloatArray:
    """The float32 nearest to each end of the box that is not outside: above a low end (1), below a high one (-1)."""
    with np.errstate(over="ignore"):
        found = ends.astype(np.float32)
    outside = (found.astype(np.float64) - ends) * direction < 0
    return np.where(outside, np.nextafter(found, np.float32(direction * np.inf)), found).astype(np.float32)
