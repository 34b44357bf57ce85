"""Puts snapshots together: from folded chains, of some of the samples, and along a few directions only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.activations import Activation
from shared.objectives import label_margins
from shared.snapshot import FloatArray, Snapshot, TailLayer
from trainer.model.blocks import Array
from trainer.model.folding import Folded
from trainer.samples.choice import choose_by_margin, choose_evenly
from trainer.snapshots.projection import Projection


def slope_share(activation: Activation, before: Array) -> Array:
    """The share of samples [N] on which each unit's activation has a slope, by its pre-activations [N, h]."""
    match activation.name:
        case "relu":
            return np.asarray((before > 0).mean(axis=0))
        case "hardtanh":
            return np.asarray((np.abs(before) < 1).mean(axis=0))
    return np.ones(before.shape[1])


def choose(
    whole: Snapshot, scores: FloatArray, samples: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Which samples a job gets, and what undoes the choice: hard ones first, by the margins of the model's scores."""
    if whole.task in ("regression", "multilabel") or whole.samples <= samples:
        choice = choose_evenly(whole.samples, samples, generator)
    else:
        margin = label_margins(whole, scores.astype(np.float64))[:, 0]
        choice = choose_by_margin(margin, _kinds(whole), samples, generator)
    return choice.positions, choice.weights


def _kinds(whole: Snapshot) -> NDArray[np.int64]:
    """What shall be balanced among the samples [N]: their classes, within each group where there are groups."""
    classes = whole.targets.reshape(-1).astype(np.int64)
    if whole.group is None:
        return classes
    _, groups = np.unique(whole.group, return_inverse=True)
    return np.asarray(groups.reshape(-1) * (classes.max(initial=0) + 1) + classes, np.int64)


def subset(whole: Snapshot, chosen: NDArray[np.int64], weights: NDArray[np.float32] | None = None) -> Snapshot:
    """Some of the samples, their weights multiplied by `weights`."""
    own = None if whole.sample_weight is None else whole.sample_weight[chosen]
    both = own if weights is None else weights if own is None else own * weights
    tail = tuple(layer if layer.offset is None else replace(layer, offset=layer.offset[chosen]) for layer in whole.tail)
    return replace(
        whole,
        inputs=np.ascontiguousarray(whole.inputs[chosen]),
        targets=whole.targets[chosen],
        offset=None if whole.offset is None else whole.offset[chosen],
        sample_weight=both,
        group=None if whole.group is None else whole.group[chosen],
        tail=tail,
    )


def as_snapshot(layers: Sequence[Folded], **fields: Any) -> Snapshot:
    """A folded chain as a snapshot; `fields` are its task, inputs, targets and weights."""
    first, *rest = layers
    tail = tuple(TailLayer(_single(x.weight), _float(x.bias), x.activation, _float(x.offset)) for x in rest)
    return Snapshot(
        weight=_single(first.weight),
        bias=_float(first.bias),
        activation=first.activation,
        offset=_float(first.offset),
        tail=tail,
        **fields,
    )


def _single(values: Array) -> FloatArray:
    return values.astype(np.float32)


def _float(values: Array | None) -> FloatArray | None:
    return None if values is None else _single(values)


def projected(plain: Snapshot, projection: Projection, bias_radius: float) -> Snapshot:
    """The snapshot along the directions only: weight 0, the present scores as offset, a radius per direction."""
    units, inputs = plain.weight.shape[0], plain.inputs.astype(np.float64)
    scores = inputs @ plain.weight.astype(np.float64).T
    for part in (plain.bias, plain.offset):
        scores = scores if part is None else scores + part
    return replace(
        plain,
        inputs=(inputs @ projection.directions).astype(np.float32),
        weight=np.zeros((units, projection.directions.shape[1]), np.float32),
        bias=None if plain.bias is None else np.zeros(units, np.float32),
        offset=scores.astype(np.float32),
        radius=np.tile(projection.radii.astype(np.float32), (units, 1)),
        bias_radius=None if plain.bias is None else np.full(units, bias_radius, np.float32),
    )


def annotated(snapshot: Snapshot, note: Mapping[str, Any] | None) -> Snapshot:
    """The snapshot with the sender's own note."""
    return replace(snapshot, note=dict(note)) if note else snapshot
