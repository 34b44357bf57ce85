"""A walk by exact line searches: constraints first, then the objective, never back; for counts and for ramps."""

from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np

from shared.objectives import EPSILON
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.heuristics.line import Kinks, Line, Stretches, best_stretch, losses_at, stretches
from solver_service.milp.heuristics.tally import Tally
from solver_service.milp.rounding.into_box import rounding_errors

COUNTED = ("zero_one", "outliers", "worst_class", "worst_group")
WALKED = (*COUNTED, "ramp")
"""Objectives whose exact value along a line is known here."""
TO_THE_EDGE = 1e-9
"""Steps shorter than this, in units of the box, are none."""
FEW = 0.3
"""Of the entries of a random row, how many move."""
FIRST_PRICE, RISE, EVERY = 2.0, 1.5, 40
"""What breaking constraints costs at first, as a multiple of all weight; it rises as long as that does not help."""


@dataclass(frozen=True)
class Rank:
    """How good a state is: its objective and by how much constraints are broken; lower is better."""

    broken: float
    value: float

    def at(self, price: float) -> float:
        """One number for both: a price that is too low for a constraint is raised until it is kept."""
        return self.value + (price * self.broken if self.broken else 0.0)


class Walk:
    """A state of an output layer that line searches improve.

    `change` [h, d+1] is in units of the radius, `scores` [n, h] are those it leads to; `rank` counts a sample as right
    only if rounding to float32 cannot turn it wrong again.
    """

    def __init__(self, problem: Problem, tally: Tally, rng: np.random.Generator) -> None:
        self._problem, self._tally, self._rng = problem, tally, rng
        self._rows = np.arange(len(problem.scores))
        snapshot = problem.snapshot
        self._guard = 2 * rounding_errors(problem, snapshot.weight, snapshot.bias).max(axis=1)
        self._need = EPSILON + self._guard
        self._tolerance = np.maximum(0.0, (problem.objective.tolerance or 0.0) - self._guard)
        self._sides: Array | None = None
        if snapshot.task in ("binary", "multilabel"):
            self._sides = np.where(problem.targets.reshape(len(problem.scores), -1) > 0, 1.0, -1.0)
        whole = 1.0 if len(tally.judged) else float(problem.cost.sum())
        self._first_price = FIRST_PRICE * whole
        self._price, self._waited = self._first_price, 0
        self.goto(np.zeros_like(problem.radius))

    def fork(self) -> Self:
        """Another walk from here, over the same samples."""
        return copy(self)

    def goto(self, change: Array) -> None:
        """Go on from another change."""
        self.change = np.clip(change, -1.0, 1.0)
        self.scores = self._problem.scores_at(self.change)
        self.rank = self.rank_of(self.scores)

    def cheapen(self, share: float) -> None:
        """Let constraints cost a share of what they did at first; the price rises again while they are broken."""
        self._price = share * self._first_price

    def rank_of(self, scores: Array) -> Rank:
        """The rank of a state with these scores [n, h]."""
        right = self._tally.gather(self._problem.cost * self._right(scores, self._guard))
        broken = float(self._tally.broken(right))
        if self._tally.gaps:
            # A gap has two sides: it has to be kept whichever way samples close to the line are rounded.
            loose = self._tally.gather(self._problem.cost * self._right(scores, -self._guard))
            broken = max(broken, float(self._tally.broken(loose)))
        match self._problem.objective.name:
            case "ramp":
                value = self._ramp(scores)
            case name if name in COUNTED:
                value = float(self._tally.wrong(right))
            case _:
                value = 0.0  # the walk only serves to keep the constraints
        return Rank(broken, value)

    def priced(self, scores: Array) -> float:
        """What other scores [n, h] are worth: their objective, and the price of what they break."""
        return Rank(self.rank_of(scores).broken, self._problem.loss(scores)).at(self._price)

    def bias_step(self) -> bool:
        """One line search along the bias of a unit drawn at random, or along any one weight where biases are fixed."""
        self._raise_price()
        units, width = self._problem.radius.shape
        unit, last = int(self._rng.integers(units)), width - 1
        if self._rng.random() < 0.7 and self._problem.radius[unit, last] > 0:
            return self.single(unit, np.array([last]), np.ones(1))
        return self.single(unit, self._rng.integers(width, size=1), np.ones(1))

    def random_step(self) -> bool:
        """One line search along a direction drawn at random; whether anything moved."""
        self._raise_price()
        rng, radius = self._rng, self._problem.radius
        units, width = radius.shape
        draw, unit = rng.random(), int(rng.integers(units))
        if draw < 0.2:
            return self.single(unit, np.array([width - 1]), np.ones(1))
        if draw < 0.55:
            return self.single(unit, rng.integers(width, size=1), np.ones(1))
        if draw < 0.75 or units == 1 or self._problem.objective.name != "zero_one" or self._sides is not None:
            chosen = np.flatnonzero(rng.random(width) < FEW)
            return self.single(unit, chosen, rng.normal(size=chosen.size))
        return self._towards_a_wrong_sample()

    def single(self, unit: int, entries: Index, amounts: Array) -> bool:
        """Move some entries of one unit along a line, as far as is best; whether anything moved."""
        least, most = _range(self.change[unit, entries], amounts)
        moved = self._problem.inputs[:, entries] @ (self._problem.radius[unit, entries] * amounts)
        if most - least <= TO_THE_EDGE or not moved.any():
            return False
        found = stretches(self._line_of_unit(unit, moved), self._tally.cells, least, most)
        if self._problem.objective.name == "ramp":
            step, rank = self._by_ramp(unit, moved, found)
        else:
            step, rank = self._by_count(found)
        if step == 0.0 or self._worse(rank):
            return False
        scores = self.scores.copy()
        scores[:, unit] += step * moved
        return self._take(scores, [(unit, entries, amounts)], step)

    def _towards_a_wrong_sample(self) -> bool:
        """Move a wrong sample's class along its inputs, and its rival's against them, as far as is best."""
        margin, rival = self._margins(self.scores)
        wrong = np.flatnonzero(margin < self._need)
        sample = int(self._rng.choice(wrong)) if wrong.size else int(self._rng.integers(len(margin)))
        up, down = int(self._problem.targets[sample]), int(rival[sample])
        radius = self._problem.radius
        amounts = [sign * self._problem.inputs[sample] * radius[unit] for unit, sign in ((up, 1.0), (down, -1.0))]
        largest = max(float(np.abs(amount).max()) for amount in amounts)
        if largest == 0:
            return False
        entries = np.flatnonzero(amounts[0])
        parts = [(unit, entries, amount[entries] / largest) for unit, amount in zip((up, down), amounts, strict=True)]
        ranges = [_range(self.change[unit, chosen], amount) for unit, chosen, amount in parts]
        least, most = max(first for first, _ in ranges), min(last for _, last in ranges)
        if most - least <= TO_THE_EDGE:
            return False
        moved = np.zeros_like(self.scores)
        for unit, chosen, amount in parts:
            moved[:, unit] = self._problem.inputs[:, chosen] @ (radius[unit, chosen] * amount)
        step, rank = self._by_count(stretches(self._line_of_all(moved), self._tally.cells, least, most))
        return not self._worse(rank) and self._take(self.scores + step * moved, parts, step)

    def _worse(self, rank: Rank) -> bool:
        """Whether a state is no place to go to; one that breaks constraints never is from one that keeps them."""
        if self.rank.broken == 0 and rank.broken > 0:
            return True
        return rank.at(self._price) > self.rank.at(self._price)

    def _raise_price(self) -> None:
        self._waited = self._waited + 1 if self.rank.broken else 0
        if self._waited >= EVERY:
            self._price, self._waited = RISE * self._price, 0

    def _take(self, scores: Array, parts: list[tuple[int, Index, Array]], step: float) -> bool:
        """Go there, unless it is worse than what the line promised."""
        rank = self.rank_of(scores)
        if self._worse(rank):
            return False
        change = self.change.copy()
        for unit, entries, amounts in parts:
            change[unit, entries] = np.clip(change[unit, entries] + step * amounts, -1.0, 1.0)
        self.change, self.scores, self.rank = change, scores, rank
        return True

    def _by_count(self, found: Stretches) -> tuple[float, Rank]:
        broken, value, place = best_stretch(found, self._tally, self._price)
        counted = self._problem.objective.name in COUNTED
        return float(found.middle[place]), Rank(broken, value if counted else 0.0)

    def _by_ramp(self, unit: int, moved: Array, found: Stretches) -> tuple[float, Rank]:
        """The best kink of the ramps, among those where constraints are broken least."""
        least, most = found.middle[0] - found.width[0] / 2, found.middle[-1] + found.width[-1] / 2
        kinks = self._kinks(unit, moved, least, most)
        steps = np.sort(np.concatenate([kinks.begin, kinks.end, found.middle]))
        value, broken = losses_at(kinks, steps), np.zeros(len(steps))
        if self._tally.asks:
            edges = found.middle[1:] - found.width[1:] / 2
            broken = self._tally.broken(found.right)[np.searchsorted(edges, steps)]
        place = int((value + self._price * broken).argmin())
        return float(steps[place]), Rank(float(broken[place]), float(value[place]))

    def _kinks(self, unit: int, moved: Array, least: float, most: float) -> Kinks:
        """Where the loss of each sample bends along a line of one unit: `max(r_A, ramp(B + a s))`."""
        level, slope, others = self._parts(unit, moved)
        margin, cost = self._problem.objective.margin, self._problem.cost
        floor = np.clip(1.0 - others / margin, 0.0, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([-level / slope, ((1.0 - floor) * margin - level) / slope])
        bends = (slope != 0) & (floor < 1.0)
        ends = np.clip(np.sort(ends[:, bends], axis=0), least, most)
        return Kinks(ends[0], ends[1], -cost[bends] * slope[bends] / margin, self._ramp(self.scores))

    def _line_of_unit(self, unit: int, moved: Array) -> Line:
        """Where each sample is right while one unit's scores change by `moved` [n] a step."""
        cost, cell = self._problem.cost, self._tally.cell
        if self._problem.snapshot.task == "regression":
            error = self.scores - self._problem.targets.astype(np.float64)
            others = (np.abs(error) <= self._tolerance[:, None]).sum(axis=1) - (
                np.abs(error[:, unit]) <= self._tolerance
            )
            low, high = _interval(-self._tolerance - error[:, unit], moved)
            low_2, high_2 = _interval(-self._tolerance + error[:, unit], -moved)
            possible = others == error.shape[1] - 1
            return Line(np.where(possible, np.maximum(low, low_2), np.inf), np.minimum(high, high_2), cost, cell)
        level, slope, others = self._parts(unit, moved)
        low, high = _interval(self._need - level, slope)
        return Line(np.where(others >= self._need, low, np.inf), high, cost, cell)

    def _parts(self, unit: int, moved: Array) -> tuple[Array, Array, Array]:
        """Margins as `min(level + a slope, others)`, all [n], while one unit's scores change by a `moved`."""
        if self._sides is not None:
            side = self._sides[:, unit]
            return side * self.scores[:, unit], side * moved, np.full(len(moved), np.inf)
        targets = self._problem.targets.astype(np.int64)
        mine = targets == unit
        own = self.scores[self._rows, targets]
        rest = self.scores.copy()
        rest[self._rows, targets] = -np.inf
        rest[:, unit] = -np.inf
        rival = rest.max(axis=1)
        level = np.where(mine, own - rival, own - self.scores[:, unit])
        return level, np.where(mine, moved, -moved), np.where(mine, np.inf, own - rival)

    def _line_of_all(self, moved: Array) -> Line:
        """Where each sample is right while all scores change by `moved` [n, h] a step."""
        targets = self._problem.targets.astype(np.int64)
        level = self.scores[self._rows, targets][:, None] - self.scores
        slope = moved[self._rows, targets][:, None] - moved
        level[self._rows, targets] = np.inf
        low, high = _interval(self._need[:, None] - level, slope)
        return Line(low.max(axis=1), high.min(axis=1), self._problem.cost, self._tally.cell)

    def _margins(self, scores: Array) -> tuple[Array, Index]:
        """Each sample's margin [n], and its strongest rival [n]."""
        targets = self._problem.targets.astype(np.int64)
        rest = scores.copy()
        rest[self._rows, targets] = -np.inf
        rival = rest.argmax(axis=1)
        return scores[self._rows, targets] - rest[self._rows, rival], rival

    def _right(self, scores: Array, guard: Array) -> Mask:
        """Which samples are right by at least `guard` [n]."""
        if self._problem.snapshot.task == "regression":
            error = np.abs(scores - self._problem.targets.astype(np.float64))
            tolerance = (self._problem.objective.tolerance or 0.0) - guard
            return np.asarray((error <= tolerance[:, None]).all(axis=1))
        if self._sides is not None:
            return np.asarray((self._sides * scores >= EPSILON + guard[:, None]).all(axis=1))
        return np.asarray(self._margins(scores)[0] >= EPSILON + guard)

    def _ramp(self, scores: Array) -> float:
        margin = self._margins(scores)[0][None, :] if self._sides is None else (self._sides * scores).T
        losses = np.clip(1.0 - margin / self._problem.objective.margin, 0.0, 1.0)
        return float((losses @ self._problem.cost).sum())


def _interval(need: Array, slope: Array) -> tuple[Array, Array]:
    """The steps a with `a slope >= need`, as low and high of each entry; low > high where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        at = need / slope
    never = (slope == 0) & (need > 0)
    low = np.where(slope > 0, at, np.where(never, np.inf, -np.inf))
    return low, np.where(slope < 0, at, np.where(never, -np.inf, np.inf))


def _range(change: Array, amounts: Array) -> tuple[float, float]:
    """The steps that keep `change + step amounts` in [-1, 1]."""
    moving = amounts != 0
    if not moving.any():
        return 0.0, 0.0
    edges = np.sort(np.stack([-1.0 - change[moving], 1.0 - change[moving]]) / amounts[moving], axis=0)
    return min(0.0, float(edges[0].max())), max(0.0, float(edges[1].min()))
