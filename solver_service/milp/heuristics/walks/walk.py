"""A walk by exact line searches: constraints first, then the objective, never back; for counts and for ramps."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from shared.objectives import sample_weights
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.heuristics.walks.discrete import Discrete
from solver_service.milp.heuristics.walks.line import Stretches, best_stretch, losses_at, stretches
from solver_service.milp.heuristics.walks.margin_lines import MarginLines
from solver_service.milp.heuristics.walks.tally import Tally

COUNTED = ("zero_one", "outliers", "worst_class", "worst_group")
WALKED = (*COUNTED, "ramp")
"""Objectives whose exact value along a line is known here."""
UNCLAIMED = 0.5
"""How often a false claim is pushed off where a precision is to be mended; else a bias moves."""
TO_THE_EDGE = 1e-9
"""Steps shorter than this, in units of the box, are none."""
DENSE = 16
"""One of so many entries: with more of them all columns are multiplied by."""
FEW = 0.3
"""Of the entries of a random row, how many move."""
SWAPPED, JOLTED = 0.35, 0.7
"""Where only so many weights may differ from 0, and do: from which draw on two are swapped; where they are on grids or
levels, from which on one goes anywhere before another one moves."""
FIRST_PRICE, RISE, EVERY, DEAREST = 2.0, 1.5, 40, 1e12
"""What breaking constraints costs at first, as a multiple of all weight; it rises as long as that does not help, up to
so many times as much."""


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

    `change` [h, d+1] is in units of the radius.
    """

    def __init__(self, problem: Problem, tally: Tally, rng: np.random.Generator) -> None:
        self._problem, self._tally, self._rng = problem, tally, rng
        self._weights = problem.weights
        # A count is a weight, a worst rate a share: the price of a broken share is in the objective's own unit.
        self._first_price = FIRST_PRICE * (1.0 if len(tally.judged) else float(self._weights.sum()))
        self._price, self._waited = self._first_price, 0
        self._discrete = Discrete.of(problem)
        self._all_stepped = self._discrete is not None and bool(self._discrete.stepped[:, :-1].all())
        # [m]: the bias, and columns by which whole groups move.
        self._levels = np.append(_constant_in_groups(problem), problem.radius.shape[1] - 1) if tally.gaps else None
        classes = problem.snapshot.task == "classification" and problem.objective.name == "zero_one"
        self._pairs = classes and self._discrete is None
        self.goto(np.zeros_like(problem.radius))

    def fork(self) -> Self:
        """Another walk from here, over the same samples."""
        return copy(self)

    def goto(self, change: Array) -> None:
        """Go on from another change, or from the nearest one that keeps what is asked of single weights."""
        self.change = np.clip(change, -1.0, 1.0)
        self._free: Mask = self._problem.radius > 0
        self._zeros: Mask = np.zeros_like(self._free)
        if self._discrete is not None:
            self.change = self._discrete.settled(self.change)
            self._release(self._discrete)
        for known in ("scores", "rank"):
            self.__dict__.pop(known, None)

    @cached_property
    def scores(self) -> Array:
        """The scores [n, h] that the change leads to; counted once somebody asks, as there may be millions."""
        return self._problem.scores_at(self.change) if self.change.any() else self._problem.scores

    @cached_property
    def rank(self) -> Rank:
        """What they are worth."""
        return self.rank_of(self.scores)

    @cached_property
    def _lines(self) -> MarginLines:
        return MarginLines(self._problem, self._tally)

    def cheapen(self, share: float) -> None:
        """Let constraints cost a share of what they did at first; the price rises again while they are broken."""
        self._price = share * self._first_price

    def rank_of(self, scores: Array) -> Rank:
        """The rank of a state with these scores [n, h]."""
        guard = self._lines.guard
        right = self._lines.counted(scores, guard)
        broken = float(self._tally.broken(right))
        if self._tally.gaps:
            # A gap has two sides: it has to be kept whichever way samples close to the line are rounded.
            loose = self._lines.counted(scores, -guard)
            broken = max(broken, float(self._tally.broken(loose)))
        match self._problem.objective.name:
            case "ramp":
                value = self._lines.ramp(scores)
            case name if name in COUNTED:
                value = float(self._tally.wrong(right))
            case _:
                value = 0.0  # the walk only serves to keep the constraints
        return Rank(broken, value)

    def priced(self, scores: Array) -> float:
        """What other scores [n, h] are worth: their objective, and the price of what they break."""
        return Rank(self.rank_of(scores).broken, self._problem.loss(scores)).at(self._price)

    def bias_step(self) -> bool:
        """One line search along a bias drawn at random, or what moves a group; now and then along any one entry.

        Whether anything moved.
        """
        self._raise_price()
        units, width = self._problem.radius.shape
        unit, last = int(self._rng.integers(units)), width - 1
        if self._rng.random() < 0.7 and self._problem.radius[unit, last] > 0:
            levels = np.array([last]) if self._levels is None else self._rng.choice(self._levels, 1)
            return self.single(unit, levels, np.ones(1))
        return self.single(unit, self._rng.integers(width, size=1), np.ones(1))

    def mend(self, steps: int, should_stop: Callable[[], bool]) -> bool:
        """Move biases until all constraints are kept, in so many line searches at most; whether they are.

        What constraints cost rises with each step that does not help: what they lack may be worth less than one error.
        """
        for _ in range(steps):
            if self.rank.broken == 0 or should_stop():
                break
            if not self._mending_step():
                self._dearer()
        return self.rank.broken == 0

    def random_step(self) -> bool:
        """One line search along a direction drawn at random; whether anything moved."""
        self._raise_price()
        rng, (units, width) = self._rng, self._problem.radius.shape
        draw, unit = rng.random(), int(rng.integers(units))
        if draw < 0.2:
            return self.single(unit, np.array([width - 1]), np.ones(1))
        if draw > SWAPPED and self._discrete is not None and not self._free.all():
            return self._swap(self._discrete)
        if draw > JOLTED and self._discrete is not None and self._discrete.stepped[unit].any():
            return self._jolt(self._discrete, unit)
        if draw < 0.55 or self._all_stepped:
            return self.single(unit, rng.integers(width, size=1), np.ones(1))
        if draw > 0.75 and self._pairs:
            return self._mending_step() if self.rank.broken else self._towards_a_wrong_sample()
        chosen = np.flatnonzero(rng.random(width) < FEW)
        return self.single(unit, chosen, self._problem.pace[unit, chosen] * rng.normal(size=chosen.size))

    def single(self, unit: int, entries: Index, amounts: Array) -> bool:
        """Move some entries of one unit along a line, as far as is best; whether anything moved."""
        stops: Array | None = None
        if self._discrete is not None:
            stepped = self._discrete.stepped[unit, entries]
            if entries.size == 1 and stepped[0]:
                now = float(self.change[unit, entries[0]])
                # The only steps that lead to values which the entry may have.
                stops = (self._discrete.choices(unit, int(entries[0]), now) - now) / amounts[0]
            movable = self._free[unit, entries] & (~stepped if stops is None else True)
            # Of several zeros perhaps only one may move.
            movable &= ~self._zeros[unit, entries] | (entries.size == 1)
            entries, amounts = entries[movable], amounts[movable]
        least, most = _range(self.change[unit, entries], amounts)
        if most - least <= TO_THE_EDGE or (stops is not None and stops.size == 0):
            return False
        moved = self._moved(unit, entries, amounts)
        if not moved.any():
            return False
        found = stretches(self._lines.of_unit(self.scores, unit, moved), self._tally.counts, least, most)
        if self._problem.objective.name == "ramp":
            step, rank = self._by_ramp(unit, moved, found, stops)
        else:
            step, rank = self._by_count(found, stops)
        if step == 0.0 or self._worse(rank):
            return False
        scores = self.scores.copy()
        scores[:, unit] += step * moved
        return self._take(scores, [(unit, entries, amounts)], step)

    def _mending_step(self) -> bool:
        """A bias, or what a class is claimed for falsely, where a precision is too low; whether anything moved."""
        place = self._lacking_claim()
        if place is None or self._discrete is not None:
            return self.bias_step()
        number, binary = self._tally.claimed[place], self._problem.snapshot.task == "binary"
        if self._rng.random() < UNCLAIMED:
            return self._unclaim(place, number, binary=binary)
        return self.single(0 if binary else number, np.array([self._problem.radius.shape[1] - 1]), np.ones(1))

    def _lacking_claim(self) -> int | None:
        """The place of the claimed class whose precision lacks most; None where all are kept."""
        if not self._tally.claimed:
            return None
        lack = self._tally.demanded - self._tally.precision(self._lines.counted(self.scores, self._lines.guard))
        return int(lack.argmax()) if lack.max() > 0 else None

    def _unclaim(self, place: int, number: int, *, binary: bool) -> bool:
        """Move a class against a sample of others that is called it; whether anything moved."""
        rows = self._lines.falsely_claimed(self.scores, place)
        if not rows.size:
            return False
        sample = int(self._rng.choice(rows))
        if binary:
            return self._along(sample, [(0, 1.0 - 2.0 * number)])
        return self._along(sample, [(int(self._problem.targets[sample]), 1.0), (number, -1.0)])

    def _towards_a_wrong_sample(self) -> bool:
        """Move a wrong sample's class along its inputs, and its rival's against them, as far as is best."""
        margin, rival = self._lines.margins(self.scores)
        wrong = np.flatnonzero(margin < self._lines.guard)
        sample = int(self._rng.choice(wrong)) if wrong.size else int(self._rng.integers(len(margin)))
        return self._along(sample, [(int(self._problem.targets[sample]), 1.0), (int(rival[sample]), -1.0)])

    def _along(self, sample: int, units: list[tuple[int, float]]) -> bool:
        """Move units along a sample's inputs, or against them, as far as is best; whether anything moved."""
        problem, radius = self._problem, self._problem.radius
        # g_n R: where the box is wide and the input large, this margin gains most.
        amounts = [sign * problem.inputs[sample] * radius[unit] for unit, sign in units]
        largest = max(float(np.abs(amount).max()) for amount in amounts)
        if largest == 0:
            return False
        # In units of the largest entry, so that a step of 1 crosses half of the box.
        parts = [
            (unit, np.flatnonzero(amount), amount[amount != 0] / largest)
            for (unit, _), amount in zip(units, amounts, strict=True)
        ]
        ranges = [_range(self.change[unit, chosen], amount) for unit, chosen, amount in parts]
        least, most = max(first for first, _ in ranges), min(last for _, last in ranges)
        if most - least <= TO_THE_EDGE:
            return False
        moved = np.zeros_like(self.scores)
        for unit, chosen, amount in parts:
            moved[:, unit] = self._moved(unit, chosen, amount)
        one = units[0][0]
        lines, scores = self._lines, self.scores
        line = lines.of_all(scores, moved) if len(units) > 1 else lines.of_unit(scores, one, moved[:, one])
        step, _ = self._by_count(stretches(line, self._tally.counts, least, most), None)
        return step != 0.0 and self._take(self.scores + step * moved, parts, step)

    def _moved(self, unit: int, entries: Index, amounts: Array) -> Array:
        """What a step of 1 along some entries of a unit adds to its scores [n]."""
        inputs, step = self._problem.inputs, self._problem.radius[unit, entries] * amounts
        if entries.size * DENSE < inputs.shape[1]:
            return np.asarray(inputs[:, entries] @ step)
        # To copy so many columns takes longer than to multiply by all.
        whole = np.zeros(inputs.shape[1])
        whole[entries] = step
        return np.asarray(inputs @ whole)

    def _swap(self, discrete: Discrete) -> bool:
        """Where only so many weights may differ from 0: one becomes 0, another may move; undone if that is worse."""
        fixed = np.argwhere(~self._free & (self._problem.radius > 0))
        zeroable = np.argwhere(discrete.zeroable(self.change) & self._free)
        if not len(fixed) or not len(zeroable):
            return False
        state = self._state()
        (unit, entry), (off_unit, off_entry) = self._rng.choice(fixed), self._rng.choice(zeroable)
        self._set(int(off_unit), int(off_entry), discrete.zero[off_unit, off_entry])
        self._free = self._free.copy()
        self._free[unit, entry] = True
        self.single(int(unit), np.array([entry]), np.ones(1))
        return self._settled(state, discrete)

    def _jolt(self, discrete: Discrete, unit: int) -> bool:
        """One of a unit's entries takes any of its values, another one its best after that; undone if that is worse."""
        state = self._state()
        movable = np.flatnonzero(discrete.stepped[unit] & self._free[unit])
        if movable.size < 2:
            return False
        one, other = self._rng.choice(movable, size=2, replace=False)
        choices = discrete.choices(unit, int(one), self.change[unit, one])
        if choices.size == 0:
            return False
        self._set(unit, int(one), float(self._rng.choice(choices)))
        self.single(unit, np.array([other]), np.ones(1))
        return self._settled(state, discrete)

    def _state(self) -> dict[str, Any]:
        """All that a step changes, with what the place is worth."""
        return {"rank": self.rank, **self.__dict__}

    def _settled(self, state: dict[str, Any], discrete: Discrete) -> bool:
        """Whether what was done since is no worse; else it is undone."""
        before: Rank = state["rank"]
        if (before.broken == 0 and self.rank.broken > 0) or self.rank.at(self._price) > before.at(self._price):
            self.__dict__.update(state)
            return False
        self._release(discrete)
        return True

    def _release(self, discrete: Discrete) -> None:
        """See anew which entries may move, and which are zeros that are counted."""
        self._zeros = discrete.zeros(self.change)
        self._free = discrete.free(self._zeros)

    def _set(self, unit: int, entry: int, value: float) -> None:
        """Give an entry another value, whatever that costs."""
        step = value - self.change[unit, entry]
        self.change, self.scores = self.change.copy(), self.scores.copy()
        self.change[unit, entry] = value
        self.scores[:, unit] += self._problem.inputs[:, entry] * (self._problem.radius[unit, entry] * step)
        self.rank = self.rank_of(self.scores)

    def _worse(self, rank: Rank) -> bool:
        """Whether a state is no place to go to; one that breaks constraints never is from one that keeps them."""
        if self.rank.broken == 0 and rank.broken > 0:
            return True
        return rank.at(self._price) > self.rank.at(self._price)

    def _raise_price(self) -> None:
        self._waited = self._waited + 1 if self.rank.broken else 0
        if self._waited >= EVERY:
            self._waited = 0
            self._dearer()

    def _dearer(self) -> None:
        self._price = min(RISE * self._price, DEAREST * self._first_price)

    def _take(self, scores: Array, parts: list[tuple[int, Index, Array]], step: float) -> bool:
        """Go there, unless it is worse than what the line promised."""
        rank = self.rank_of(scores)
        if self._worse(rank):
            return False
        change = self.change.copy()
        for unit, entries, amounts in parts:
            change[unit, entries] = np.clip(change[unit, entries] + step * amounts, -1.0, 1.0)
        self.change, self.scores, self.rank = change, scores, rank
        if self._discrete is not None:
            self._release(self._discrete)
        return True

    def _by_count(self, found: Stretches, stops: Array | None) -> tuple[float, Rank]:
        counted = self._problem.objective.name in COUNTED
        found = found if stops is None else found.at(stops)
        broken, value, place = best_stretch(found, self._tally, self._price)
        return float(found.middle[place]), Rank(broken, value if counted else 0.0)

    def _by_ramp(self, unit: int, moved: Array, found: Stretches, stops: Array | None) -> tuple[float, Rank]:
        """The best kink of the ramps, or of the steps that there are."""
        least, most = found.middle[0] - found.width[0] / 2, found.middle[-1] + found.width[-1] / 2
        # A piecewise linear sum is least at a kink or an end; under constraints a middle stands for its stretch.
        kinks = self._lines.kinks(self.scores, unit, moved, least, most)
        steps = np.sort(np.concatenate([kinks.begin, kinks.end, found.middle]) if stops is None else stops)
        value, broken = losses_at(kinks, steps), np.zeros(len(steps))
        if self._tally.asks:
            broken = self._tally.broken(found.at(steps).right)
        place = int((value + self._price * broken).argmin())
        return float(steps[place]), Rank(float(broken[place]), float(value[place]))


def _constant_in_groups(problem: Problem) -> Index:
    """The columns that are the same for all samples of a group, but not for all groups."""
    snapshot, inputs = problem.snapshot, problem.inputs[:, :-1]
    if snapshot.group is None:
        return np.zeros(0, dtype=np.int64)
    group = snapshot.group[sample_weights(snapshot) > 0]
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    constant = (inputs == inputs[first][number]).all(axis=0)
    return np.flatnonzero(constant & (inputs[first].max(axis=0) > inputs[first].min(axis=0)))


def _range(change: Array, amounts: Array) -> tuple[float, float]:
    """The steps that keep `change + step amounts` in [-1, 1]."""
    moving = amounts != 0
    if not moving.any():
        return 0.0, 0.0
    # Each entry's two steps to its sides; the range is their intersection, and holds 0 up to rounding.
    edges = np.sort(np.stack([-1.0 - change[moving], 1.0 - change[moving]]) / amounts[moving], axis=0)
    return min(0.0, float(edges[0].max())), max(0.0, float(edges[1].min()))
