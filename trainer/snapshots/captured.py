"""A captured layer as arrays: packed for the pool with any radius, and the way back from answers to parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.snapshot import FloatArray, Snapshot, TailLayer
from trainer.errors import CaptureError
from trainer.model.blocks import Array, Block, weight_size
from trainer.model.recognise import Precision
from trainer.samples.positions import Reader
from trainer.samples.reservoir import Rows
from trainer.snapshots.assembly import annotated, choose, projected, slope_share, subset
from trainer.snapshots.parcel import Parcel
from trainer.snapshots.projection import Projection, project

MOST_FOR_STATISTICS = 500
"""Samples of which a layer's dead units are told."""


@dataclass(frozen=True, eq=False)
class Origin:
    """Where positions come from: row numbers [P] in `rows`, and places [P] within a row."""

    rows: Rows
    row: NDArray[np.int64]
    place: NDArray[np.int64]

    def take(self, chosen: NDArray[np.int64]) -> "Origin":
        """Only these."""
        return Origin(self.rows, self.row[chosen], self.place[chosen])


@dataclass(frozen=True, eq=False)
class Captured:
    """A layer with its inputs and what follows, ready to be posted with any radius; arrays, without the model.

    `whole` and `origin` hold all samples that were seen, `scores` [all, K] what the model made of them, `snapshot`
    those chosen for a job (`chosen`, positions among all). Snapshots have folded weights: `own` holds the layer's
    weight [h, d] and bias where they differ, and `scale` [h] what they were multiplied by. `shapes` are those of the
    model's parameters, by name.
    """

    block: Block
    snapshot: Snapshot
    whole: Snapshot
    scores: FloatArray
    origin: Origin
    chosen: NDArray[np.int64]
    reader: Reader
    precision: Precision
    shapes: Mapping[str, tuple[int, ...]]
    directions: int | None = None
    own: tuple[FloatArray, FloatArray | None] | None = None
    scale: Array | None = None

    @property
    def rows(self) -> Rows:
        """The rows that were seen."""
        return self.origin.rows

    @property
    def weight(self) -> FloatArray:
        """The layer's own weight [h, d]."""
        return self.snapshot.weight if self.own is None else self.own[0]

    @property
    def bias(self) -> FloatArray | None:
        """The layer's own bias [h]."""
        return self.snapshot.bias if self.own is None else self.own[1]

    @property
    def weight_size(self) -> float:
        """How large the layer's weights are, the scale of its radius."""
        return weight_size(float(np.abs(self.weight).mean()), self.weight.shape[1])

    @property
    def movable(self) -> tuple[bool, ...]:
        """Which layers behind the block may move with it."""
        return tuple(not layer.fixed for layer in self.block.tail)

    @property
    def weights(self) -> int:
        """How many weights and biases the block and all layers behind it have."""
        layers: list[Snapshot | TailLayer] = [self.snapshot, *self.snapshot.tail]
        return sum(layer.weight.size + (0 if layer.bias is None else layer.bias.size) for layer in layers)

    @property
    def before(self) -> Array:
        """The block's pre-activations [n, h] on some of the samples, as on the wire."""
        some = self.whole
        made = some.inputs[:MOST_FOR_STATISTICS].astype(np.float64) @ some.weight.T
        for part in (some.bias, None if some.offset is None else some.offset[:MOST_FOR_STATISTICS]):
            made = made if part is None else made + part
        return np.asarray(made)

    @cached_property
    def active(self) -> Array:
        """The share of samples on which each unit's activation has a slope [h]; 0 where a unit is dead."""
        return slope_share(self.block.layer.activation, self.before)

    @cached_property
    def _projection(self) -> Projection:
        """Of the job's samples, for a box of half-width 1: jobs of one stall with other boxes share it."""
        assert self.directions is not None
        return project(self.snapshot.inputs, self.directions, 1.0)

    @property
    def lift(self) -> float:
        """How far biases have to rise to bring every dead unit to life on half the samples; 0 where none is dead."""
        dead = self.active == 0
        if self.bias is None or not dead.any():
            return 0.0
        needed = np.median(-self.before[:, dead], axis=0)
        needed = needed if self.scale is None else needed / np.maximum(np.abs(self.scale[dead]), 1e-12)
        return float(needed.max(initial=0.0))

    @property
    def moves_whole(self) -> bool:
        """Whether every layer behind the block may move with it."""
        return self.scale is None and all(self.movable)

    @property
    def sample_bytes(self) -> int:
        """What one sample takes on the wire."""
        sent = self.snapshot
        width = sent.inputs.shape[1] if self.directions is None else self.directions + len(sent.weight)
        offsets = sum(layer.offset.shape[1] for layer in sent.tail if layer.offset is not None)
        return int(sent.inputs.itemsize * (width + offsets) + sent.targets.nbytes // sent.samples)

    def with_snapshot(self, snapshot: Snapshot) -> "Captured":
        """The same layer with other weights on the wire."""
        return replace(self, snapshot=snapshot)

    def with_samples(self, count: int, generator: np.random.Generator) -> "Captured":
        """The same layer with at most so many samples, chosen anew among all that were seen."""
        chosen, weights = choose(self.whole, self.scores, count, generator)
        return replace(self, snapshot=subset(self.whole, chosen, weights), chosen=chosen)

    def pack_whole(self, boxes: Sequence[float], note: Mapping[str, Any] | None = None) -> Parcel:
        """The snapshot for a job in which every layer moves: `boxes` are half-widths for the block and each behind."""
        if not self.moves_whole:
            raise CaptureError(
                f"what follows layer {self.block.layer.name!r} cannot move as a whole: there are normalisations or "
                "residual paths in it"
            )
        radius, *tail = boxes
        return Parcel(self, annotated(self.snapshot, note), radius, radius, None, tuple(tail))

    def pack(
        self,
        radius: float,
        note: Mapping[str, Any] | None = None,
        *,
        bias_radius: float | None = None,
        tail_radius: float | None = None,
    ) -> Parcel:
        """The snapshot as it is posted, for a box of half-width `radius` (biases: `bias_radius`, or as much).

        A wide final layer is projected. With `tail_radius` answers are held to it where the last layer moves, too.
        """
        plain, for_biases = annotated(self.snapshot, note), bias_radius or radius
        *before, last = self.movable or (False,)
        tail = None if tail_radius is None else (*(0.0 for _ in before), tail_radius if last else 0.0)
        if self.scale is not None:
            return Parcel(self, self._scaled(plain, self.scale, radius, for_biases), radius, for_biases, None, tail)
        if self.directions is None:
            return Parcel(self, plain, radius, for_biases, None, tail)
        projection = self._projection.within(radius)
        return Parcel(self, projected(plain, projection, for_biases), radius, for_biases, projection, tail)

    def _scaled(self, plain: Snapshot, scale: Array, radius: float, bias_radius: float) -> Snapshot:
        """With a radius for each weight: a box around the layer's own weights is `|scale|` times as wide when folded.

        A bias that comes from the normalisation alone is nobody's to move.
        """
        wide = np.abs(scale)
        own_bias = np.zeros_like(wide) if self.bias is None else wide * bias_radius
        return replace(
            plain,
            radius=np.tile((wide * radius)[:, None], (1, plain.weight.shape[1])).astype(np.float32),
            bias_radius=None if plain.bias is None else own_bias.astype(np.float32),
        )
