"""The pure float64 view of one job: what may move, how far, and what every sample scores."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from shared.constraints import movement_cost, sign_limits, violations
from shared.contracts import Constraint, JobSpec
from shared.objectives import WORST, Objective, cells, outputs, sample_weights
from shared.snapshot import FloatArray, IntArray, Snapshot, label_targets, regression_targets

MEASURED = 1 << 22
"""Entries of inputs and scores that say how far columns move scores, and how large those are, at most."""
MEANS = ("mae", "mse", "log_loss", "huber", "quantile", "trimmed_mse", "trimmed_mae")

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Space:
    """What models and heuristics search: samples `inputs` [n, c] and the box's half-widths `radius` [h, c].

    A *change* is an [h, c] array in units of the radius, each entry in [-1, 1]; it moves score i of sample n by
    `inputs[n] . (radius[i] * change[i])`.
    """

    inputs: Array
    radius: Array

    @property
    def units(self) -> int:
        """h, the number of units that move."""
        return int(self.radius.shape[0])

    @property
    def columns(self) -> int:
        """h c, the number of entries of a change."""
        return int(self.radius.size)


@dataclass(frozen=True, eq=False)
class Problem(Space):
    """A block to move: the samples of positive weight, and a box around its weights.

    The bias counts as one more input that is always 1, so `inputs` is [n, d+1] and `radius` [h, d+1]; without a bias
    its radius is 0. `scores` [n, h] are those of `center` [h, d+1], which is the snapshot's own weights and bias unless
    constraints on signs cut the box to a smaller one; `reach` [h, d+1] are the half-widths of the whole box around the
    snapshot, `floor` and `ceiling` the limits of signs. `targets` are classes [n], labels 0 and 1 [n, h] or values
    [n, h], `cost` [n] the samples' weights as they enter the objective (of worst_class and worst_group: their mean
    rate, which is never above the worst one).
    """

    snapshot: Snapshot
    objective: Objective
    scores: Array
    cost: Array
    targets: NDArray[np.generic]
    center: Array
    reach: Array
    floor: Array
    ceiling: Array
    constraints: tuple[Constraint, ...] = ()

    @property
    def beyond_box(self) -> bool:
        """True when more is asked for than what rows of the objective and the box, which keeps signs, can say."""
        asked = any(constraint.type not in ("nonnegative", "monotone") for constraint in self.constraints)
        return asked or self.objective.name in WORST

    @property
    def weights(self) -> Array:
        """The samples' own weights [n], all above 0."""
        weights = sample_weights(self.snapshot)
        return weights[weights > 0]

    def value(self, weight: FloatArray, bias: FloatArray | None) -> float:
        """What the job minimises, recomputed: the objective, and what movement costs."""
        movement = movement_cost(self.constraints, self.snapshot, weight) if self.constraints else 0.0
        return self.objective.value(self.snapshot, weight, bias) + movement

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the scores; of more than can be looked at soon, those of evenly spread samples."""
        return float(self.scores[:: -(-self.scores.size // MEASURED)].std())

    @cached_property
    def swing(self) -> Array:
        """How far a whole change of each entry [h, d+1] moves a typical sample's score."""
        some = self.inputs[:: -(-self.inputs.size // MEASURED)]
        return np.asarray(self.radius * np.sqrt((some**2).mean(axis=0)))

    @cached_property
    def pace(self) -> Array:
        """How large a step of each entry [h, d+1] should be beside the others', in radii: 1, or less where an entry can
        move scores far more than most can. A wide box for the bias, or a column in other units, says nothing of how
        far to go."""
        swing = self.swing
        moved = swing[:, :-1][swing[:, :-1] > 0]
        most = np.full_like(swing, np.median(moved) if moved.size else np.inf)
        # A bias moves all samples alike, and may go as far as all the others together.
        most[:, -1] = np.sqrt((np.minimum(swing, most)[:, :-1] ** 2).sum(axis=1))
        return np.asarray(np.divide(most, swing, out=np.ones_like(swing), where=(swing > most) & (most > 0)))

    @cached_property
    def stride(self) -> Array:
        """How far a step of each entry [h, d+1] at its pace moves a typical sample's score."""
        return self.pace * self.swing

    @property
    def value_at_start(self) -> float:
        """The same at the snapshot's own weights, from their scores, where those are the box's center."""
        own = self.snapshot.weight
        if np.array_equal(self.center[:, :-1], own):
            return self.loss(self.scores) + self.objective.penalty(own)
        return self.value(own, self.snapshot.bias)

    def feasible(self, weight: FloatArray, bias: FloatArray | None) -> bool:
        """Whether weights inside the box keep all constraints."""
        return not (self.constraints and violations(self.constraints, self.snapshot, weight, bias))

    def loss(self, scores: Array) -> float:
        """The objective of given scores [n, h] of the samples of positive weight; what movement costs is left out."""
        snapshot = self.snapshot
        if len(scores) < snapshot.samples:
            whole = np.zeros((snapshot.samples, scores.shape[1]))
            whole[sample_weights(snapshot) > 0] = scores
            scores = whole
        return self.objective.of_outputs(snapshot, scores)

    def scores_at(self, change: Array) -> Array:
        """Scores [n, h] after a change [h, d+1]."""
        return np.asarray(self.scores + self.inputs @ (self.radius * change).T)

    def part(self, rows: Index) -> Self:
        """Some samples [m] of positive weight, as a problem of their own; what each counts stays as it is."""
        snapshot = self.snapshot
        kept = np.flatnonzero(sample_weights(snapshot) > 0)[rows]
        of_samples = ("inputs", "targets", "sample_weight", "group", "offset")
        told = {name: getattr(snapshot, name) for name in of_samples if getattr(snapshot, name) is not None}
        return replace(
            self,
            snapshot=replace(snapshot, **{name: values[kept] for name, values in told.items()}),
            inputs=self.inputs[rows],
            scores=self.scores[rows],
            cost=self.cost[rows],
            targets=self.targets[rows],
        )


def problem_of(snapshot: Snapshot, spec: JobSpec) -> Problem:
    """Build the view of a final identity layer; samples of weight 0 are left out."""
    weights = sample_weights(snapshot)
    kept = np.flatnonzero(weights > 0)
    with_bias = _with_bias(snapshot.inputs if len(kept) == snapshot.samples else snapshot.inputs[kept])
    reach = radii(snapshot, spec)
    own = np.zeros_like(reach)
    own[:, :-1] = snapshot.weight
    if snapshot.bias is not None:
        own[:, -1] = snapshot.bias
    floor, ceiling = (
        np.column_stack([limits, np.full(len(limits), free)])
        for limits, free in zip(sign_limits(spec.constraints, snapshot.weight.shape), (-np.inf, np.inf), strict=True)
    )
    center, radius = _cut_box(own, reach, floor, ceiling)
    scores = outputs(snapshot, snapshot.weight, snapshot.bias)
    scores = scores[kept] if len(kept) < snapshot.samples else scores
    if spec.constraints:
        scores = scores + with_bias @ (center - own).T
    return Problem(
        snapshot=snapshot,
        objective=spec.goal,
        inputs=with_bias,
        scores=scores,
        radius=radius,
        cost=_costs(spec.goal, snapshot, weights)[kept],
        targets=_targets(snapshot)[kept],
        center=center,
        reach=reach,
        floor=floor,
        ceiling=ceiling,
        constraints=tuple(spec.constraints),
    )


def _with_bias(inputs: FloatArray) -> Array:
    """Inputs [n, d] in float64, with a column of ones; filled in place, because at 10^8 entries copies are seconds."""
    found = np.empty((len(inputs), inputs.shape[1] + 1))
    found[:, :-1] = inputs
    found[:, -1] = 1.0
    return found


def _cut_box(own: Array, reach: Array, floor: Array, ceiling: Array) -> tuple[Array, Array]:
    """Center and half-widths of what limits of signs leave of a box; where they leave nothing, the nearest side."""
    cut = ((own - reach) < floor) | ((own + reach) > ceiling)
    low = np.minimum(np.maximum(own - reach, floor), own + reach)
    high = np.maximum(np.minimum(own + reach, ceiling), low)
    return np.where(cut, (low + high) / 2, own), np.where(cut, (high - low) / 2, reach)


def radii(snapshot: Snapshot, spec: JobSpec) -> Array:
    """Half-widths of the box [h, d+1], float64; the last column is the bias's, 0 where there is none."""
    h, d = snapshot.weight.shape
    found = np.zeros((h, d + 1))
    if snapshot.radius is not None:
        found[:, :d] = snapshot.radius
        bias = snapshot.bias_radius if snapshot.bias_radius is not None else found[:, :d].max(axis=1)
    else:
        assert spec.radius is not None, "JobSpec.check refuses a job without any radius"
        found[:, :d] = spec.radius
        bias = np.full(h, spec.bias_radius or spec.radius)
    if snapshot.bias is not None:
        found[:, d] = bias
    return found


def _targets(snapshot: Snapshot) -> Array | IntArray:
    """Classes [N], labels [N, K] or values [N, K], by the task."""
    if snapshot.task == "regression":
        return regression_targets(snapshot)
    return cast(IntArray, snapshot.targets) if snapshot.task == "classification" else label_targets(snapshot)


def _costs(objective: Objective, snapshot: Snapshot, weights: Array) -> Array:
    """What each sample [N] counts in a sum over samples and outputs."""
    if objective.name in WORST:
        cell = cells(objective, snapshot)
        total = np.bincount(cell, weights=weights)[cell]
        share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        return np.asarray(share / np.unique(cell[weights > 0]).size)
    if objective.name in MEANS:
        labels = 1 if snapshot.task == "classification" else snapshot.outputs
        return np.asarray(weights / (labels * weights.sum()))
    return weights
