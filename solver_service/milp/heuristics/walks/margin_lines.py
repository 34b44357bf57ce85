"""What happens to each sample along a line of steps: where it is right, and how its ramp bends."""

import numpy as np

from shared.losses import parts_of
from shared.objectives import EPSILON
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.heuristics.walks.line import Kinks, Line
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.rounding.into_box import rounding_errors


class MarginLines:
    """The samples of a problem as functions of its scores [n, h]: classes, one logit, or errors within a tolerance.

    A sample counts as right only by `guard` [n], so that rounding weights to float32 cannot turn it wrong again, and
    as called a class of another one unless it is not by as much.
    """

    def __init__(self, problem: Problem, tally: Tally) -> None:
        self._problem, self._tally, self._weights = problem, tally, problem.weights
        snapshot = problem.snapshot
        # [n]: both scores of a margin can be off by a sample's rounding error.
        self.guard = 2 * rounding_errors(problem, snapshot.weight, snapshot.bias)
        self._regression = snapshot.task == "regression"
        self._sides: Array | None = None
        if snapshot.task in ("binary", "multilabel"):
            # [n, h]: +1 for label 1 and -1 for label 0, so that side times logit is the margin.
            self._sides = _side(problem.targets.astype(np.int64).reshape(problem.scores.shape))
        self._targets = np.zeros(0, dtype=np.int64) if self._regression else problem.targets.astype(np.int64)
        self._claims = [
            (np.flatnonzero(own[tally.cell] == 0), number)
            for number, own in zip(tally.claimed, tally.precise, strict=True)
        ]

    def right(self, scores: Array, guard: Array) -> Mask:
        """Which samples [n] are right by at least `guard` [n]."""
        if self._regression:
            error = np.abs(scores - self._problem.targets.astype(np.float64))
            return np.asarray((error <= self._tolerance(guard)[:, None]).all(axis=1))
        if self._sides is not None:
            return np.asarray((self._sides * scores >= EPSILON + guard[:, None]).all(axis=1))
        return np.asarray(self.margins(scores)[0] >= EPSILON + guard)

    def counted(self, scores: Array, guard: Array) -> Array:
        """The weight [c] of each cell's right samples, and [p] of the others that are called each claimed class."""
        right = self._tally.gather(self._weights * self.right(scores, guard))
        called = []
        for rows, number in self._claims:
            lead = self._lead(scores[rows], number)
            called.append(self._weights[rows] @ (lead > -EPSILON - guard[rows]))
        return np.concatenate([right, called])

    def falsely_claimed(self, scores: Array, place: int) -> Index:
        """The samples of others that are called a claimed class."""
        rows, number = self._claims[place]
        return np.asarray(rows[self._lead(scores[rows], number) > -EPSILON - self.guard[rows]])

    def ramp(self, scores: Array) -> float:
        """The sum of the ramps."""
        margin = self.margins(scores)[0][None, :] if self._sides is None else (self._sides * scores).T
        losses = np.clip(1.0 - margin / self._problem.objective.margin, 0.0, 1.0)
        return float((losses @ self._weights).sum())

    def margins(self, scores: Array) -> tuple[Array, Index]:
        """Each sample's margin [n] over its strongest rival class [n]."""
        margin, rival = np.empty(len(scores)), np.empty(len(scores), dtype=np.int64)
        for part in parts_of(scores):
            rest = scores[part].copy()
            rows, targets = np.arange(len(rest)), self._targets[part]
            own = rest[rows, targets]
            rest[rows, targets] = -np.inf
            rival[part] = rest.argmax(axis=1)
            margin[part] = own - rest[rows, rival[part]]
        return margin, rival

    def of_unit(self, scores: Array, unit: int, moved: Array) -> Line:
        """Where each sample is right while one unit's scores change by `moved` [n] a step, then where others are called
        a claimed class."""
        if self._regression:
            return self._errors_of_unit(scores, unit, moved)
        lines = [self._of_unit(scores, unit, moved, None, EPSILON + self.guard)]
        lines += [
            self._of_unit(scores[rows], unit, moved[rows], number, -EPSILON - self.guard[rows])
            for rows, number in self._claims
        ]
        return self._line(lines)

    def of_all(self, scores: Array, moved: Array) -> Line:
        """The same while all scores change by `moved` [n, h] a step; for classes."""
        lines = [_of_all(scores, moved, self._targets, EPSILON + self.guard)]
        lines += [
            _of_all(scores[rows], moved[rows], np.full(rows.size, number), -EPSILON - self.guard[rows])
            for rows, number in self._claims
        ]
        return self._line(lines)

    def _of_unit(self, scores: Array, unit: int, moved: Array, number: int | None, need: Array) -> tuple[Array, Array]:
        level, slope, others = self._parts(scores, unit, moved, number)
        # level + a slope >= need on a half-line of steps a, and nowhere where another rival wins in any case.
        low, high = _interval(need - level, slope)
        return np.where(others >= need, low, np.inf), high

    def _line(self, lines: list[tuple[Array, Array]]) -> Line:
        """The samples, then those of others for each claimed class, which have a cell of their own."""
        low, high = (np.concatenate(ends) for ends in zip(*lines, strict=True))
        others = [rows for rows, _ in self._claims]
        cells = [np.full(rows.size, self._tally.cells + place) for place, rows in enumerate(others)]
        weights = [self._weights, *(self._weights[rows] for rows in others)]
        return Line(low, high, np.concatenate(weights), np.concatenate([self._tally.cell, *cells]))

    def kinks(self, scores: Array, unit: int, moved: Array, least: float, most: float) -> Kinks:
        """Where the ramps bend between two steps: along a line of one unit each is `max(r, ramp(level + a slope))`."""
        level, slope, others = self._parts(scores, unit, moved, None)
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

    def _lead(self, scores: Array, number: int) -> Array:
        """By how much a class leads the best other one, of two that one logit tells apart or of many."""
        if self._sides is not None:
            return np.asarray(_side(number) * scores[:, 0])
        return np.asarray(scores[:, number] - np.delete(scores, number, axis=1).max(axis=1))

    def _parts(self, scores: Array, unit: int, moved: Array, number: int | None) -> tuple[Array, Array, Array]:
        """Margins as `min(level + a slope, others)`, all [n], while one unit's scores change by a `moved`.

        Of each sample's own class, or of one class for all of these samples.
        """
        if self._sides is not None:
            side = self._sides[:, unit] if number is None else _side(number)
            return side * scores[:, unit], side * moved, np.full(len(moved), np.inf)
        targets = self._targets if number is None else np.full(len(scores), number)
        mine, rows = targets == unit, np.arange(len(scores))
        own = scores[rows, targets]
        rest = scores.copy()
        rest[rows, targets] = -np.inf
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
        return Line(low, np.minimum(high, other_high), self._weights, self._tally.cell)

    def _tolerance(self, guard: Array) -> Array:
        return np.asarray((self._problem.objective.tolerance or 0.0) - guard)


def _side(label: Array | Index | int) -> Array:
    """+1 for label 1, -1 for label 0."""
    return 2.0 * np.asarray(label, dtype=np.float64) - 1.0


def _of_all(scores: Array, moved: Array, targets: Index, need: Array) -> tuple[Array, Array]:
    """Where the margin of a class [n] is as much as it needs, while all scores [n, h] change by `moved` [n, h]."""
    rows = np.arange(len(scores))
    # Margins over every class [n, h]; the own class is no rival.
    level = scores[rows, targets][:, None] - scores
    slope = moved[rows, targets][:, None] - moved
    level[rows, targets] = np.inf
    low, high = _interval(need[:, None] - level, slope)
    # All conditions have to hold: half-lines meet in one interval.
    return low.max(axis=1), high.min(axis=1)


def _interval(need: Array, slope: Array) -> tuple[Array, Array]:
    """The steps a with `a slope >= need`, as low and high of each entry; low > high where there is none."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = need / slope
    never = (slope == 0) & (need > 0)
    low = np.where(slope > 0, at, np.where(never, np.inf, -np.inf))
    return low, np.where(slope < 0, at, np.where(never, -np.inf, np.inf))
