"""The pure float64 view of one job: what may move, how far, and what every sample scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.contracts import JobSpec
from shared.objectives import Objective, outputs, sample_weights
from shared.snapshot import Snapshot

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """A block to move: the samples of positive weight, and a box around its weights.

    The bias counts as one more input that is always 1, so `inputs` is [n, d+1] and `radius` [h, d+1]; without a bias
    its radius is 0. A *change* is an [h, d+1] array in units of the radius, each entry in [-1, 1]. `scores` [n, h] are
    those of the snapshot's own weights, `targets` classes [n] or values [n, h], `cost` [n] the samples' weights as
    they enter the objective.
    """

    snapshot: Snapshot
    objective: Objective
    inputs: Array
    scores: Array
    radius: Array
    cost: Array
    targets: NDArray[np.generic]

    @property
    def units(self) -> int:
        """h, the number of units that move."""
        return int(self.radius.shape[0])

    @property
    def columns(self) -> int:
        """h (d + 1), the number of entries of a change."""
        return int(self.radius.size)

    def scores_at(self, change: Array) -> Array:
        """Scores [n, h] after a change [h, d+1]."""
        return np.asarray(self.scores + self.inputs @ (self.radius * change).T)


def problem_of(snapshot: Snapshot, spec: JobSpec) -> Problem:
    """Build the view of a final identity layer; samples of weight 0 are left out."""
    weights = sample_weights(snapshot)
    kept = np.flatnonzero(weights > 0)
    with_bias = np.hstack([snapshot.inputs.astype(np.float64), np.ones((snapshot.samples, 1))])
    targets = snapshot.targets.reshape(snapshot.samples, -1).astype(np.float64)
    classification = snapshot.task == "classification"
    return Problem(
        snapshot=snapshot,
        objective=spec.goal,
        inputs=with_bias[kept],
        scores=outputs(snapshot, snapshot.weight, snapshot.bias)[kept],
        radius=radii(snapshot, spec),
        cost=_costs(spec.goal, weights[kept], snapshot.outputs),
        targets=snapshot.targets[kept] if classification else targets[kept],
    )


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


def _costs(objective: Objective, weights: Array, outputs_per_sample: int) -> Array:
    if objective.name in ("mae", "mse"):
        return np.asarray(weights / (outputs_per_sample * weights.sum()))
    return weights
