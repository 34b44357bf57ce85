"""Takes a stall snapshot of a copied model, and turns the job's answer back into the model's own parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.objectives import margins, outputs
from shared.snapshot import FloatArray, IntArray, Snapshot, TailLayer, Task
from trainer.errors import CaptureError
from trainer.pool.client import Candidate
from trainer.snapshots.blocks import Block, find_layer, trace_block
from trainer.snapshots.projection import Projection, clip_to_box, project
from trainer.snapshots.samples import Choice, Source, choose_by_margin, choose_evenly

BATCH = 256
POOL_FACTOR = 4
"""A snapshot's samples are chosen among this many times as many."""


@dataclass(frozen=True)
class Plan:
    """What to capture: the layer (and what follows it, if that is not plain to see), how many samples, and when and to
    how many directions to project."""

    layer: str | nn.Module | None = None
    tail: tuple[str | nn.Module, ...] | None = None
    samples: int = 1000
    project_above: int = 512
    directions: int = 64


@dataclass(frozen=True, eq=False)
class Captured:
    """A stalled block with its inputs, ready to be posted with any radius.

    `inputs` [N, d], `weight` [h, d], `bias` [h] or None are the layer's own, before any projection.
    """

    block: Block
    snapshot: Snapshot
    directions: int | None

    @property
    def mean_weight(self) -> float:
        """The layer's mean |weight|, the scale of its radius."""
        return float(np.abs(self.snapshot.weight).mean())

    def pack_whole(self, boxes: Sequence[float], note: Mapping[str, Any] | None = None) -> "Parcel":
        """The snapshot for a job in which every layer moves: `boxes` are half-widths for the block and each behind."""
        radius, *tail = boxes
        return Parcel(self, _annotated(self.snapshot, note), radius, radius, None, tuple(tail))

    def pack(
        self, radius: float, note: Mapping[str, Any] | None = None, *, bias_radius: float | None = None
    ) -> "Parcel":
        """The snapshot as it is posted, for a box of half-width `radius` (biases: `bias_radius`, or as much): as it is,
        or projected."""
        plain, for_biases = self.snapshot, bias_radius or radius
        if self.directions is None:
            return Parcel(self, _annotated(plain, note), radius, for_biases, None)
        projection = project(plain.inputs, self.directions, radius)
        return Parcel(self, _annotated(_projected(plain, projection, for_biases), note), radius, for_biases, projection)


@dataclass(frozen=True, eq=False)
class Parcel:
    """One snapshot on its way to the pool, and the way back from an answer to the model's parameters.

    `tail_radii` say how far each layer behind the block may move, None where the job's own setting does.
    """

    captured: Captured
    snapshot: Snapshot
    radius: float
    bias_radius: float
    projection: Projection | None = None
    tail_radii: tuple[float, ...] | None = None

    @property
    def spec_radius(self) -> float | None:
        """The spec's `radius`: None when the snapshot brings its own per-direction radii."""
        return None if self.projection else self.radius

    def unpack(self, candidate: Candidate) -> dict[str, Tensor]:
        """The answer as parameters of the model by name, inside the box; CaptureError if the shapes differ."""
        if candidate.weight.shape != self.snapshot.weight.shape:
            raise CaptureError(
                f"the answer's weight is {list(candidate.weight.shape)}, not {list(self.snapshot.weight.shape)}"
            )
        own = self.captured.snapshot
        moved = candidate.weight if self.projection is None else own.weight + self.projection.lift(candidate.weight)
        wire: dict[str, FloatArray] = {"weight": clip_to_box(moved, own.weight, self.radius)}
        if candidate.bias is not None and own.bias is not None:
            bias = candidate.bias if self.projection is None else own.bias + candidate.bias.astype(np.float64)
            wire["bias"] = clip_to_box(bias, own.bias, self.bias_radius)
        wire |= dict(candidate.tail)
        names = self.captured.block.parameters()
        return {names[name]: torch.from_numpy(np.array(values)) for name, values in wire.items() if name in names}


def capture(model: nn.Module, source: Source, plan: Plan, generator: np.random.Generator) -> Captured:
    """Take a snapshot of a model (a CPU copy in evaluation mode; it is only run forward).

    Samples are drawn by `generator` alone. Raises CaptureError when the layer, what follows it, or the data do not
    fit (`nn.Linear` used once, a piecewise-linear chain behind it, (input, target) pairs).
    """
    name = find_layer(model, plan.layer)
    pool = choose_evenly(source.size, POOL_FACTOR * plan.samples, generator).positions
    probe, _ = source.fetch(pool[:2].tolist())
    block = trace_block(model, name, probe, plan.tail)
    inputs, targets = activations_of(model, name, source, pool)
    whole = _snapshot(model, block, inputs, targets)
    choice = _choose(whole, plan.samples, generator)
    wide = plan.directions if whole.inputs.shape[1] > plan.project_above and block.tail == () else None
    return Captured(block, _subset(whole, choice), wide)


def activations_of(
    model: nn.Module, name: str, source: Source, chosen: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray | IntArray]:
    """Run chosen samples forward; what enters the layer [N, d], and the targets."""
    seen: list[Tensor] = []
    labels: list[Tensor] = []
    layer = model.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().float().flatten(1)))
    try:
        with torch.no_grad():
            for start in range(0, len(chosen), BATCH):
                batch, targets = source.fetch(chosen[start : start + BATCH].tolist())
                model(batch)
                labels.append(targets)
    finally:
        hook.remove()
    values = torch.cat(labels)
    wanted = torch.float32 if values.is_floating_point() else torch.int64
    return torch.cat(seen).numpy(), values.to(wanted).numpy()


def _snapshot(model: nn.Module, block: Block, inputs: FloatArray, targets: FloatArray | IntArray) -> Snapshot:
    weight, bias = block.layer.matrix(model)
    task: Task = "regression" if targets.dtype.kind == "f" else "classification"
    tail = [TailLayer(*layer.matrix(model), layer.activation) for layer in block.tail]
    if task == "classification" and (tail[-1].weight if tail else weight).shape[0] < 2:
        raise CaptureError("a classification needs one output per class; a single logit cannot be tunnelled")
    return Snapshot(
        task=task,
        inputs=inputs,
        targets=targets,
        weight=weight,
        bias=bias,
        activation=block.layer.activation,
        tail=tuple(tail),
    )


def _choose(whole: Snapshot, samples: int, generator: np.random.Generator) -> Choice:
    if whole.task == "regression":
        return choose_evenly(whole.samples, samples, generator)
    scores = outputs(whole, whole.weight, whole.bias)
    return choose_by_margin(margins(scores, whole.targets), whole.targets.astype(np.int64), samples, generator)


def _subset(whole: Snapshot, choice: Choice) -> Snapshot:
    fields = {name: getattr(whole, name) for name in ("task", "weight", "bias", "activation", "tail", "note")}
    return Snapshot(
        **fields,
        inputs=np.ascontiguousarray(whole.inputs[choice.positions]),
        targets=whole.targets[choice.positions],
        sample_weight=choice.weights,
    )


def _projected(plain: Snapshot, projection: Projection, bias_radius: float) -> Snapshot:
    """The snapshot along the directions only: weight 0, the present scores as offset, a radius per direction."""
    units = plain.weight.shape[0]
    scores = plain.inputs.astype(np.float64) @ plain.weight.astype(np.float64).T
    return Snapshot(
        task=plain.task,
        inputs=(plain.inputs.astype(np.float64) @ projection.directions).astype(np.float32),
        targets=plain.targets,
        weight=np.zeros((units, projection.directions.shape[1]), np.float32),
        bias=None if plain.bias is None else np.zeros(units, np.float32),
        activation=plain.activation,
        offset=(scores + (0 if plain.bias is None else plain.bias)).astype(np.float32),
        sample_weight=plain.sample_weight,
        radius=np.tile(projection.radii.astype(np.float32), (units, 1)),
        bias_radius=None if plain.bias is None else np.full(units, bias_radius, np.float32),
    )


def _annotated(snapshot: Snapshot, note: Mapping[str, Any] | None) -> Snapshot:
    if not note:
        return snapshot
    fields = {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}
    return Snapshot(**(fields | {"note": dict(note)}))
