"""The block in float32 and in units of its own: what descents run on, at any size and any scale."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.losses import parts_of
from solver_service.milp.core.problem import MEASURED, Array, Problem

Singles = NDArray[np.float32]

LARGEST_CHUNK = 1 << 22
"""Entries that are scaled at a time: the clock is looked at in between, and no second copy is made in float64."""


@dataclass(frozen=True, eq=False)
class SinglePrecision:
    """A problem's scores as float32: `scores + inputs @ (reach * change).T`, all in units of `unit`.

    `inputs` [n, c] have columns of largest size 1, `scores` [n, h] are those of change 0, and `reach` [h, c] is how far
    a whole change of an entry moves a score. Steps are `pace` [h, c] times those of an even problem. Any common factor
    of inputs, weights or targets cancels.
    """

    inputs: Singles
    scores: Singles
    reach: Singles
    pace: Singles
    unit: float

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """Scale a problem; the unit is the objective's own margin or tolerance, or the typical score."""
        # [c]: taken out of the inputs and put into the reach, so that float32 sees columns of size 1.
        size = np.maximum(np.abs(problem.inputs.max(axis=0)), np.abs(problem.inputs.min(axis=0)))
        divisor = np.where(size > 0, size, 1.0)
        unit = _unit(problem, size)
        rows = max(1, LARGEST_CHUNK // size.size)
        inputs = np.empty(problem.inputs.shape, dtype=np.float32)
        for begin in range(0, len(inputs), rows):
            inputs[begin : begin + rows] = problem.inputs[begin : begin + rows] / divisor
        scores = np.empty(problem.scores.shape, dtype=np.float32)
        for part in parts_of(scores):
            scores[part] = _finite(problem.scores[part], unit)
        reach = _finite(problem.radius * size, unit)
        return cls(inputs=inputs, scores=scores, reach=reach, pace=problem.pace.astype(np.float32), unit=unit)

    def outputs(self, changes: Singles) -> Singles:
        """Scores [n, b, h] after several changes [b, h, c], in units of `unit`."""
        return self.rows(changes, slice(None))

    def rows(self, changes: Singles, chosen: NDArray[np.int64] | slice) -> Singles:
        """The same for some of the samples."""
        # [n, c] @ [c, b h]: all arms in one product, then [n, b, h].
        moved = self.inputs[chosen] @ (self.reach * changes).reshape(-1, self.reach.shape[1]).T
        scores = self.scores[chosen]
        return np.asarray(moved.reshape(len(scores), *changes.shape[:2]) + scores[:, None, :])


def _unit(problem: Problem, size: Array) -> float:
    """What counts as 1: margins and tolerances where the objective has one, else what scores are like."""
    objective = problem.objective
    if objective.name in ("ramp", "hinge"):
        return objective.margin
    if objective.name == "outliers" and objective.tolerance:
        return objective.tolerance
    # Of more scores than that, those of samples that are evenly spread say it as well.
    some = slice(None, None, -(-problem.scores.size // MEASURED))
    scores = problem.scores[some]
    if problem.snapshot.task == "regression":
        # Errors, or how far scores are from their sample's mean; the median, unless it is 0.
        levels = np.abs(scores - problem.targets[some].astype(np.float64))
    else:
        levels = np.abs(scores - scores.mean(axis=1, keepdims=True))
    typical = float(np.median(levels)) or float(levels.max(initial=0.0))
    return typical or float((problem.pace * problem.radius * size).max(initial=0.0)) or 1.0


def _finite(values: Array, unit: float) -> Singles:
    """In units of `unit` and float32, cut off far from where the squares of a descent would overflow."""
    with np.errstate(over="ignore"):
        return np.clip(values / unit, -1e15, 1e15).astype(np.float32)
