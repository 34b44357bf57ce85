"""The objectives: float32 weights in float64 arithmetic, the one definition of "better"."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shared.errors import SpecError
from shared.snapshot import FloatArray, Snapshot, TailLayer, regression_targets

ObjectiveName = Literal["zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers"]
CLASSIFICATION: tuple[ObjectiveName, ...] = ("zero_one", "ramp", "hinge")
REGRESSION: tuple[ObjectiveName, ...] = ("mae", "mse", "max_error", "outliers")
COUNTS: tuple[ObjectiveName, ...] = ("zero_one", "outliers")
EPSILON = 1e-4
"""A sample counts as right only if its class wins by this much (the paper's epsilon)."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """What a job minimises: a name, and the margin or tolerance that goes with it."""

    name: ObjectiveName
    margin: float = 1.0
    tolerance: float | None = None

    @property
    def need(self) -> float:
        """The margin at which a sample costs nothing."""
        return EPSILON if self.name == "zero_one" else self.margin

    def check(self, snapshot: Snapshot) -> None:
        """Raise SpecError unless the objective fits the snapshot's task."""
        allowed = CLASSIFICATION if snapshot.task == "classification" else REGRESSION
        if self.name not in allowed:
            raise SpecError(
                f"{self.name!r} does not fit a {snapshot.task} snapshot; use one of {', '.join(allowed)}",
                field="objective",
            )
        if self.name == "outliers" and self.tolerance is None:
            raise SpecError("'outliers' needs the largest error that still counts as right", field="tolerance")

    def value(
        self, snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None = None
    ) -> float:
        """The objective at the given block (and tail): lower is better.

        weight [h, d] and bias [h] are float32, as they come back from a job; arithmetic is float64. `tail`
        replaces the snapshot's own.
        """
        return self.of_outputs(snapshot, outputs(snapshot, weight, bias, tail))

    def of_outputs(self, snapshot: Snapshot, scores: Array) -> float:
        """The objective of given outputs [N, K]."""
        costs = self.sample_costs(snapshot, scores)
        return float(costs.max() if self.name == "max_error" else costs.sum())

    def sample_costs(self, snapshot: Snapshot, scores: Array) -> Array:
        """Each sample's part of the objective [N], weighted; max_error is their maximum, all others their sum."""
        w = sample_weights(snapshot)
        if snapshot.task == "classification":
            t = margins(scores, snapshot.targets)
            if self.name == "zero_one":
                return w * (t < EPSILON)
            loss = np.maximum(0.0, 1.0 - t / self.margin)
            return w * (np.minimum(1.0, loss) if self.name == "ramp" else loss)
        error = np.abs(scores - regression_targets(snapshot))
        match self.name:
            case "mae":
                return np.asarray(w * error.mean(axis=1) / w.sum())
            case "mse":
                return np.asarray(w * (error**2).mean(axis=1) / w.sum())
            case "max_error":
                return np.where(w > 0, error.max(axis=1), 0.0)
        assert self.tolerance is not None, "Objective.check refuses outliers without a tolerance"
        return w * (error > self.tolerance).any(axis=1)


def sample_weights(snapshot: Snapshot) -> Array:
    """Each sample's weight [N]; 1 where the snapshot names none."""
    if snapshot.sample_weight is None:
        return np.ones(snapshot.samples)
    return snapshot.sample_weight.astype(np.float64)


def outputs(
    snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None, tail: tuple[TailLayer, ...] | None = None
) -> Array:
    """The network's outputs [N, K] from the block on, in float64."""
    values = snapshot.inputs.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        values += bias.astype(np.float64)
    if snapshot.offset is not None:
        values += snapshot.offset.astype(np.float64)
    values = snapshot.activation(values)
    for layer in snapshot.tail if tail is None else tail:
        values = values @ layer.weight.astype(np.float64).T
        if layer.bias is not None:
            values = values + layer.bias.astype(np.float64)
        if layer.offset is not None:
            values = values + layer.offset.astype(np.float64)
        values = layer.activation(values)
    return values


def margins(scores: Array, targets: NDArray[np.generic]) -> Array:
    """Each sample's margin t_n = s_y - max over k != y of s_k, [N]."""
    rows = np.arange(len(scores))
    own = scores[rows, targets]
    rivals = scores.copy()
    rivals[rows, targets] = -np.inf
    return np.asarray(own - rivals.max(axis=1), dtype=np.float64)


assert set(get_args(ObjectiveName)) == {*CLASSIFICATION, *REGRESSION}
