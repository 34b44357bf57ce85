"""The objectives: float32 weights in float64 arithmetic, the one definition of "better"."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from shared.errors import SpecError
from shared.losses import cross_entropy, huber, kept_after_trim, logistic, margins, pinball, worst_cell
from shared.magnitudes import AT_THE_START, MOST, Reach, largest, largest_output
from shared.snapshot import (
    FloatArray,
    IntArray,
    Snapshot,
    TailLayer,
    Task,
    class_targets,
    label_targets,
    regression_targets,
)

ObjectiveName = Literal[
    "zero_one",
    "ramp",
    "hinge",
    "log_loss",
    "worst_class",
    "worst_group",
    "mae",
    "mse",
    "max_error",
    "outliers",
    "huber",
    "quantile",
    "trimmed_mse",
    "trimmed_mae",
]
WORST: tuple[ObjectiveName, ...] = ("worst_class", "worst_group")
TRIMMED: tuple[ObjectiveName, ...] = ("trimmed_mse", "trimmed_mae")
MULTILABEL: tuple[ObjectiveName, ...] = ("zero_one", "ramp", "hinge", "log_loss")
CLASSIFICATION: tuple[ObjectiveName, ...] = (*MULTILABEL, *WORST)
REGRESSION: tuple[ObjectiveName, ...] = ("mae", "mse", "max_error", "outliers", "huber", "quantile", *TRIMMED)
OF_TASK: dict[Task, tuple[ObjectiveName, ...]] = {
    "classification": CLASSIFICATION,
    "binary": CLASSIFICATION,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
}
COUNTS: tuple[ObjectiveName, ...] = ("zero_one", "outliers")
EPSILON = 1e-4
"""A sample counts as right only if its class wins by this much (the paper's epsilon)."""
ENTRIES_AT_ONCE = 1 << 20
"""Inputs or scores in float64 at a time."""

Array = NDArray[np.float64]

__all__ = [
    "CLASSIFICATION",
    "COUNTS",
    "EPSILON",
    "MULTILABEL",
    "OF_TASK",
    "REGRESSION",
    "TRIMMED",
    "WORST",
    "Objective",
    "ObjectiveName",
    "cells",
    "class_scores",
    "label_margins",
    "label_margins_at",
    "margins",
    "outputs",
    "sample_weights",
]


@dataclass(frozen=True)
class Objective:
    """What a job minimises: a name, and the numbers that go with some names.

    `margin` is that of ramp and hinge, `tolerance` that of outliers, `l2` the price of squared weights in log_loss,
    `delta` where huber turns linear, `quantile` the share of targets that should be below the outputs, and `trim` the
    share of weight that the trimmed ones may leave out.
    """

    name: ObjectiveName
    margin: float = 1.0
    tolerance: float | None = None
    l2: float = 0.0
    delta: float = 1.0
    quantile: float = 0.5
    trim: float = 0.1

    @property
    def need(self) -> float:
        """The margin at which a sample costs nothing."""
        return EPSILON if self.name in ("zero_one", *WORST) else self.margin

    def check(self, snapshot: Snapshot) -> None:
        """Raise SpecError unless the objective fits the snapshot's task and has a finite value at its weights."""
        allowed = OF_TASK[snapshot.task]
        if self.name not in allowed:
            apart = "send each label as a binary snapshot, or " if snapshot.task == "multilabel" else ""
            raise SpecError(
                f"{self.name!r} does not fit a {snapshot.task} snapshot; {apart}use one of {', '.join(allowed)}",
                field="objective",
            )
        if self.name == "outliers" and self.tolerance is None:
            raise SpecError("'outliers' needs the largest error that still counts as right", field="tolerance")
        if self.l2 > 0 and self.name != "log_loss":
            raise SpecError(f"only log_loss has a price of squared weights, not {self.name}; leave it out", field="l2")
        if self.name == "worst_group" and snapshot.group is None:
            raise SpecError(
                "'worst_group' needs each sample's group: send the tensor `group` [N] (i64), or use worst_class",
                field="objective",
            )
        self._check_finite(snapshot)

    def surely_finite(self, snapshot: Snapshot) -> bool:
        """Whether sizes alone say that the value at the start is finite; an outline of the snapshot is enough."""
        return self.most(snapshot) < MOST

    def most(self, snapshot: Snapshot, reach: Reach = AT_THE_START) -> float:
        """No value is larger than this for weights within reach, nor any number on the way to it; may be infinite."""
        output = largest_output(snapshot, reach)
        error = max(1.0, 2.0 * output + (largest(snapshot.targets) if snapshot.task == "regression" else 0.0))
        weights = snapshot.samples * max(1.0, largest(snapshot.sample_weight))
        heaviest = largest(snapshot.weight) + reach.weight
        penalty = self.l2 * snapshot.weight.size * heaviest * heaviest if self.l2 else 0.0
        unit = min(1.0, self.margin) if self.name == "hinge" else 1.0  # a ramp ends at 1, however steep it is
        return weights * snapshot.outputs * error * error / unit + penalty

    def _check_finite(self, snapshot: Snapshot) -> None:
        """The value at the start has to be a number; the exact one is looked at only where a crude bound is not."""
        if self.surely_finite(snapshot) or _finite(self, snapshot):
            return
        cures: tuple[tuple[str, str, Objective, Snapshot], ...] = (
            ("l2", "lower l2", replace(self, l2=0.0), snapshot),
            ("margin", "raise the margin", replace(self, margin=max(1.0, self.margin)), snapshot),
            ("sample_weight", "scale the sample weights down", self, replace(snapshot, sample_weight=None)),
        )
        named = ((field, cure) for field, cure, goal, other in cures if _finite(goal, other))
        field, cure = next(named, ("objective", "scale its inputs, weights or targets down"))
        raise SpecError(f"the value at the snapshot's own weights is beyond float64; {cure}", field=field)

    def value(
        self, snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None = None
    ) -> float:
        """The objective at the given block (and tail): lower is better.

        weight [h, d] and bias [h] are float32, as they come back from a job; arithmetic is float64. `tail`
        replaces the snapshot's own.
        """
        wanted = _wanted(snapshot)
        told = np.empty((snapshot.samples, self._width(snapshot)))
        for part, scores in _in_parts(snapshot, weight, bias, tail):
            told[part] = self._told(snapshot.task, scores, wanted[part])
        return self._gathered(self._weighed(snapshot, told)) + self.penalty(weight)

    def penalty(self, weight: FloatArray) -> float:
        """What the block's weights cost by themselves: l2 times their squared norm, biases not counted."""
        return self.l2 * float((weight.astype(np.float64) ** 2).sum()) if self.l2 else 0.0

    def of_outputs(self, snapshot: Snapshot, scores: Array) -> float:
        """The objective of given outputs [N, K], without the penalty."""
        return self._gathered(self.sample_costs(snapshot, scores))

    def sample_costs(self, snapshot: Snapshot, scores: Array) -> Array:
        """Each sample's part of the objective [N], weighted; max_error is their maximum, all others their sum."""
        return self._weighed(snapshot, self._told(snapshot.task, scores, _wanted(snapshot)))

    def _gathered(self, costs: Array) -> float:
        return float(costs.max() if self.name == "max_error" else costs.sum())

    def _width(self, snapshot: Snapshot) -> int:
        """w, how many numbers the objective has to be told of a sample."""
        if snapshot.task == "classification" or (snapshot.task != "regression" and self.name == "log_loss"):
            return 1
        return snapshot.outputs

    def _told(self, task: Task, scores: Array, wanted: NDArray[Any]) -> Array:
        """What counts of the outputs [n, K] of some samples, [n, w]: losses of log_loss, else margins or errors."""
        if task == "regression":
            return np.asarray(wanted - scores)
        if self.name != "log_loss":
            return _signed(task, scores, wanted)
        if task == "classification":
            return cross_entropy(scores, wanted)[:, None]
        return np.asarray(logistic(_signed(task, scores, wanted)).mean(axis=1, keepdims=True))

    def _weighed(self, snapshot: Snapshot, told: Array) -> Array:
        """Each sample's part of the objective [N], from what was told of all [N, w]."""
        if snapshot.task == "regression":
            return self._of_errors(snapshot, told)
        w = sample_weights(snapshot)
        if self.name == "log_loss":
            return np.asarray(w / w.sum() * told[:, 0])
        if self.name in WORST:
            shares, members = worst_cell(told[:, 0] < EPSILON, w, cells(self, snapshot))
            return shares * members
        if self.name == "zero_one":
            return np.asarray(w * (told < EPSILON).sum(axis=1))
        loss = np.maximum(0.0, 1.0 - told / self.margin)
        return np.asarray(w * (np.minimum(1.0, loss) if self.name == "ramp" else loss).sum(axis=1))

    def _of_errors(self, snapshot: Snapshot, signed: Array) -> Array:
        w = sample_weights(snapshot)
        error = np.abs(signed)
        if self.name == "max_error":
            return np.where(w > 0, error.max(axis=1), 0.0)
        if self.name == "outliers":
            assert self.tolerance is not None, "Objective.check refuses outliers without a tolerance"
            return w * (error > self.tolerance).any(axis=1)
        match self.name:
            case "huber":
                losses = huber(signed, self.delta).mean(axis=1)
            case "quantile":
                losses = pinball(signed, self.quantile).mean(axis=1)
            case "mae" | "trimmed_mae":
                losses = error.mean(axis=1)
            case _:
                losses = (error**2).mean(axis=1)
        kept = kept_after_trim(losses, w, self.trim) if self.name in TRIMMED else 1.0
        return np.asarray(kept * w * losses / w.sum())


def _finite(objective: Objective, snapshot: Snapshot) -> bool:
    """Whether the value at the snapshot's own weights is a number, computed as it is told."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(objective.value(snapshot, snapshot.weight, snapshot.bias)))


def cells(objective: Objective, snapshot: Snapshot) -> IntArray:
    """The cell [N] that each sample's rate is counted in: its class, or its class and group, numbered from 0."""
    keys = class_targets(snapshot)[:, None]
    if objective.name == "worst_group":
        keys = np.column_stack([keys, cast(IntArray, snapshot.group)])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def class_scores(snapshot: Snapshot, scores: Array) -> Array:
    """A score for each class [N, classes]: the outputs, or 0 and the logit s of a binary snapshot."""
    return np.hstack([np.zeros_like(scores), scores]) if snapshot.task == "binary" else scores


def label_margins(snapshot: Snapshot, scores: Array) -> Array:
    """What decides right and wrong [N, labels]: the margin of the class, or s and -s for labels 1 and 0."""
    return _signed(snapshot.task, scores, _wanted(snapshot))


def label_margins_at(snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None) -> Array:
    """The same [N, labels] at a block's weights; no table of all scores is made."""
    found = np.empty((snapshot.samples, 1 if snapshot.task == "classification" else snapshot.outputs))
    wanted = _wanted(snapshot)
    for part, scores in _in_parts(snapshot, weight, bias, None):
        found[part] = _signed(snapshot.task, scores, wanted[part])
    return found


def _signed(task: Task, scores: Array, wanted: NDArray[Any]) -> Array:
    return margins(scores, wanted)[:, None] if task == "classification" else np.asarray(wanted * scores)


def _wanted(snapshot: Snapshot) -> NDArray[Any]:
    """Classes [N], the labels' sides of 0 as -1 and +1 [N, K], or values [N, K], by the task."""
    if snapshot.task == "regression":
        return regression_targets(snapshot)
    return snapshot.targets if snapshot.task == "classification" else 2.0 * label_targets(snapshot) - 1.0


def sample_weights(snapshot: Snapshot) -> Array:
    """Each sample's weight [N]; 1 where the snapshot names none."""
    if snapshot.sample_weight is None:
        return np.ones(snapshot.samples)
    return snapshot.sample_weight.astype(np.float64)


def outputs(
    snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None = None
) -> Array:
    """The network's outputs [N, K] from the block on, in float64."""
    found = np.empty((snapshot.samples, snapshot.outputs))
    for part, scores in _in_parts(snapshot, weight, bias, tail):
        found[part] = scores
    return found


def _in_parts(
    snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None
) -> Iterator[tuple[slice, Array]]:
    """The outputs [n, K] of some samples at a time: a float64 copy of all inputs or scores may be gigabytes."""
    layers = snapshot.tail if tail is None else tail
    block = weight.astype(np.float64).T
    behind = [layer.weight.astype(np.float64).T for layer in layers]
    rows = max(1, ENTRIES_AT_ONCE // max(max(across.shape) for across in (block, *behind)))
    for begin in range(0, snapshot.samples, rows):
        part = slice(begin, begin + rows)
        values = _behind(snapshot.inputs[part].astype(np.float64) @ block, bias, snapshot.offset, part)
        values = snapshot.activation(values)
        for layer, across in zip(layers, behind, strict=True):
            values = layer.activation(_behind(values @ across, layer.bias, layer.offset, part))
        yield part, values


def _behind(values: Array, bias: FloatArray | None, offset: FloatArray | None, part: slice) -> Array:
    if bias is not None:
        values += bias.astype(np.float64)
    if offset is not None:
        values += offset[part].astype(np.float64)
    return values


assert set(get_args(ObjectiveName)) == {*CLASSIFICATION, *REGRESSION}
