"""What happens to each sample along a line of steps: where it is right, and how its ramp bends."""

import numpy as np

from shared.objectives import EPSILON
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.heuristics.walks.line import Kinks, Line
from solver_service.milp.rounding.into_box import rounding_errors


class MarginLines:
    """The samples of a problem as functions of its scores [n, h]: classes, one logit, or errors within a tolerance.

    A sample counts as right only by `guard` [n], so that rounding weights to float32 cannot turn it wrong again.
    """

    def __init__(self, problem: Problem, cell: Index) -> None:
        self._problem, self._cell, self._weights = problem, cell, problem.weights
        self._rows = np.arange(len(problem.scores))
        snapshot = problem.snapshot
        # [n]: both scores of a margin can be off by the largest of a sample's rounding errors.
        self.guard = 2 * rounding_errors(problem, snapshot.weight, snapshot.bias).max(axis=1)
        self._regression = snapshot.task == "regression"
        self._sides: Array | None = None
        if snapshot.task in ("binary", "multilabel"):
            # [n, h]: +1 for label 1 and -1 for label 0, so that side times logit is the margin.
            self._sides = 2.0 * problem.targets.astype(np.float64).reshape(problem.scores.shape) - 1.0

    def right(self, scores: Array, guard: Array) -> Mask:
        """Which samples [n] are right by at least `guard` [n]."""
        if self._regression:
            error = np.abs(scores - self._problem.targets.astype(np.float64))
            return np.asarray((error <= self._tolerance(guard)[:, None]).all(axis=1))
        if self._sides is not None:
            return np.asarray((self._sides * scores >= EPSILON + guard[:, None]).all(axis=1))
        return np.asarray(self.margins(scores)[0] >= EPSILON + guard)

    def ramp(self, scores: Array) -> float:
        """The sum of the ramps."""
        margin = self.margins(scores)[0][None, :] if self._sides is None else (self._sides * scores).T
        losses = np.clip(1.0 - margin / self._problem.objective.margin, 0.0, 1.0)
        return float((losses @ self._weights).sum())

    def margins(self, scores: Array) -> tuple[Array, Index]:
        """Each sample's margin [n] over its strongest rival class [n]."""
        targets = self._problem.targets.astype(np.int64)
        rest = scores.copy()
        rest[self._rows, targets] = -np.inf
        rival = rest.argmax(axis=1)
        return scores[self._rows, targets] - rest[self._rows, rival], rival

    def of_unit(self, scores: Array, unit: int, moved: Array) -> Line:
        """Where each sample is right while one unit's scores change by `moved` [n] a step."""
        if self._regression:
            return self._errors_of_unit(scores, unit, moved)
        level, slope, others = self._parts(scores, unit, moved)
        need = EPSILON + self.guard
        # level + a slope >= need on a half-line of steps a, and nowhere where another rival wins in any case.
        low, high = _interval(need - level, slope)
        return Line(np.where(others >= need, low, np.inf), high, self._weights, self._cell)

    def of_all(self, scores: Array, moved: Array) -> Line:
        """Where each sample is right while all scores change by `moved` [n, h] a step; for classes."""
        targets = self._problem.targets.astype(np.int64)
        # Margins over every class [n, h]; the own class is no rival.
        level = scores[self._rows, targets][:, None] - scores
        slope = moved[self._rows, targets][:, None] - moved
        level[self._rows, targets] = np.inf
        low, high = _interval((EPSILON + self.guard)[:, None] - level, slope)
        # Right where all conditions hold: half-lines meet in one interval.
        return Line(low.max(axis=1), high.min(axis=1), self._weights, self._cell)

    def kinks(self, scores: Array, unit: int, moved: Array, least: float, most: float) -> Kinks:
        """Where the ramps bend between two steps: along a line of one unit each is `max(r, ramp(level + a slope))`."""
        level, slope, others = self._parts(scores, unit, moved)
        margin = self._problem.objective.margin
        floor = np.clip(1.0 - others / margin, 0.0, 1.0)  # r: what the other rivals cost in any case
        with np.errstate(divide="ignore", invalid="ignore"):
            # Where the ramp is 1 (level + a slope = 0), and where it comes down to r.
            ends = np.stack([-level / slope, ((1.0 - floor) * margin - level) / slope])
        # Without a slope, or with r = 1 already, the ramp is the same everywhere.
        bends = (slope != 0) & (floor < 1.0)
        ends = np.clip(np.sort(ends[:, bends], axis=0), least, most)
        # In between the ramp falls by slope / margin a step where the margin rises.
        return Kinks(ends[0], ends[1], -self._weights[bends] * slope[bends] / margin, self.ramp(scores))

    def _parts(self, scores: Array, unit: int, moved: Array) -> tuple[Array, Array, Array]:
        """Margins as `min(level + a slope, others)`, all [n], while one unit's scores change by a `moved`."""
        if self._sides is not None:
            side = self._sides[:, unit]
            return side * scores[:, unit], side * moved, np.full(len(moved), np.inf)
        targets = self._problem.targets.astype(np.int64)
        mine = targets == unit
        own = scores[self._rows, targets]
        rest = scores.copy()
        rest[self._rows, targets] = -np.inf
        rest[:, unit] = -np.inf
        rival = rest.max(axis=1)
        # The moving unit is the own class: all margins move alike, and the strongest rival decides.
        # Or it is a rival: only the margin over it moves.
        level = np.where(mine, own - rival, own - scores[:, unit])
        return level, np.where(mine, moved, -moved), np.where(mine, np.inf, own - rival)

    def _errors_of_unit(self, scores: Array, unit: int, moved: Array) -> Line:
        """Where all errors of each sample are within the tolerance: an interval, or nowhere."""
        tolerance = self._tolerance(self.guard)
        error = scores - self._problem.targets.astype(np.float64)
        within = np.abs(error) <= tolerance[:, None]
        within[:, unit] = True
        # -tolerance <= error + a moved <= tolerance, both as conditions from below.
        low, high = _interval(-tolerance - error[:, unit], moved)
        other_low, other_high = _interval(-tolerance + error[:, unit], -moved)
        low = np.where(within.all(axis=1), np.maximum(low, other_low), np.inf)
        return Line(low, np.minimum(high, other_high), self._weights, self._cell)

    def _tolerance(self, guard: Array) -> Array:
        return np.asarray((self._problem.objective.tolerance or 0.0) - guard)


def _interval(need: Array, slope: Array) -> tuple[Array, Array]:
    """The steps a with `a slope >= need`, as low and high of each entry; low > high where there is none."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = need / slope
    never = (slope == 0) & (need > 0)
    low = np.where(slope > 0, at, np.where(never, np.inf, -np.inf))
    return low, np.where(slope < 0, at, np.where(never, -np.inf, np.inf))
