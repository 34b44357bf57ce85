"""One snapshot on its way to the pool, and the way back from an answer to the model's own parameters."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.result import Candidate
from shared.snapshot import FloatArray, Snapshot, TailLayer
from trainer.errors import CaptureError
from trainer.model.blocks import Array
from trainer.snapshots.projection import Projection, clip_to_box

if TYPE_CHECKING:
    from trainer.snapshots.captured import Captured


@dataclass(frozen=True, eq=False)
class Parcel:
    """One snapshot on its way to the pool, and the way back from an answer to the model's parameters.

    `tail_radii` say how far each layer behind the block may move, None where the job's own setting does.
    """

    captured: "Captured"
    snapshot: Snapshot
    radius: float
    bias_radius: float
    projection: Projection | None = None
    tail_radii: tuple[float, ...] | None = None

    @property
    def spec_radius(self) -> float | None:
        """The spec's `radius`: None when the snapshot brings its own radii."""
        return None if self.snapshot.radius is not None else self.radius

    def moved_tail(self, candidate: Candidate) -> tuple[TailLayer, ...] | None:
        """The layers behind the block with the answer's weights; None where it moves none."""
        if not candidate.tail:
            return None
        return tuple(
            replace(
                layer,
                weight=candidate.tail.get(f"tail.{index}.weight", layer.weight),
                bias=candidate.tail.get(f"tail.{index}.bias", layer.bias),
            )
            for index, layer in enumerate(self.snapshot.tail)
        )

    def unpack(self, candidate: Candidate) -> dict[str, NDArray[np.float32]]:
        """The answer as the model's parameters by name, inside the box; CaptureError for what is no answer to this."""
        self._check(candidate)
        taken = self.captured
        wire = {"weight": clip_to_box(self._own_weight(candidate), taken.weight, self.radius)}
        if candidate.bias is not None and taken.bias is not None:
            wire["bias"] = clip_to_box(self._own_bias(candidate.bias, taken.bias), taken.bias, self.bias_radius)
        wire |= {name: self._in_box(name, values) for name, values in candidate.tail.items() if not self._fixed(name)}
        names = taken.block.parameters()
        return {names[name]: np.array(values).reshape(taken.shapes[names[name]]) for name, values in wire.items()}

    def _check(self, candidate: Candidate) -> None:
        """Raise CaptureError unless every tensor is one of the snapshot's that may move, of its shape, and finite."""
        sent = self.snapshot.tensors()
        got = {"weight": candidate.weight, **candidate.tail}
        got |= {} if candidate.bias is None else {"bias": candidate.bias}
        for name, values in got.items():
            own = sent.get(name)
            if own is None or values.shape != own.shape:
                asked = "none" if own is None else str(list(own.shape))
                raise CaptureError(f"the answer's {name} is {list(values.shape)}, not {asked}")
            if not np.isfinite(values).all():
                raise CaptureError(f"the answer's {name} holds NaN or infinity")
        for name, values in candidate.tail.items():
            if self._fixed(name) and (values != sent[name]).any():
                raise CaptureError(f"the answer moves {name}, which cannot move")

    def _own_weight(self, candidate: Candidate) -> Array:
        """The answer's weight in place of the layer's own [h, d]: neither projected nor folded."""
        own, scale = self.captured.weight, self.captured.scale
        if self.projection is not None:
            return np.asarray(own + self.projection.lift(candidate.weight))
        answer = candidate.weight.astype(np.float64)
        if scale is None:
            return answer
        divided = _divided(answer, self.snapshot.weight, own, scale[:, None])
        return _signed(divided, answer, self.snapshot.weight, scale[:, None])

    def _own_bias(self, answer: FloatArray, own: FloatArray) -> Array:
        wide = answer.astype(np.float64)
        if self.projection is not None:
            return own + wide
        scale, sent = self.captured.scale, self.snapshot.bias
        return wide if scale is None or sent is None else _divided(wide, sent, own, scale)

    def _fixed(self, name: str) -> bool:
        return self.captured.block.tail[_index(name)].fixed

    def _in_box(self, name: str, values: FloatArray) -> FloatArray:
        if self.tail_radii is None:
            return values
        return clip_to_box(values, self.snapshot.tensors()[name], self.tail_radii[_index(name)])


def _index(name: str) -> int:
    """Which tail layer `tail.I.weight` is of."""
    return int(name.split(".")[1])


def _divided(answer: Array, sent: FloatArray, own: FloatArray, scale: Array) -> Array:
    """The layer's own weights for a folded answer: its change divided by the scale, none where the scale is 0."""
    change = answer - sent.astype(np.float64)
    return np.asarray(own + np.divide(change, scale, out=np.zeros_like(change), where=scale != 0.0))


def _signed(divided: Array, answer: Array, sent: FloatArray, scale: Array) -> Array:
    """The layer's own weights, exactly 0 where the answer is, and on no other side of it but by a negative scale."""
    turned = np.sign(divided) != np.sign(answer) * np.sign(scale)
    return np.where(turned & (answer != sent) & (scale != 0.0), 0.0, divided)
