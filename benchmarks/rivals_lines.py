"""Exact line search for classifiers under floors and gaps: along a line a sample is right on one interval of steps.

Margins t_nk + a s_nk are lines in the step a, so sorting the 2N ends of the intervals gives every count, and with it
every share of every class and group, at once: O(N log N) where one class moves, O(NK + N log N) where all do.
"""

import math

import numpy as np

from benchmarks.rivals_case import Array, Case
from shared.constraints import SLACK, floors, gap_groups
from shared.objectives import EPSILON, margins

CLEAR = EPSILON * 1.1
"""A sample is only called right here if float32 rounding cannot undo it."""
PRICE = 1e6
"""What a broken share costs."""
TRIALS = 24
"""At how many steps along a line a ramp is evaluated."""


class Shares:
    """The constraints on shares as a matrix: the weight [S, N] of each sample in each set; all of a set is 1."""

    def __init__(self, case: Case) -> None:
        sets: list[Array] = []
        self._floors: list[tuple[int, float]] = []
        self._gaps: list[tuple[int, float]] = []
        for constraint in case.spec.constraints:
            if constraint.type in ("min_accuracy", "recall_floor"):
                for members in floors(constraint, case.snapshot):
                    self._floors.append((len(sets), constraint.value))
                    sets.append(case.weights * members / case.weights[members].sum())
            elif constraint.type == "group_rate_gap":
                self._gaps.append((len(sets), constraint.value))
                sets += [case.weights * m / case.weights[m].sum() for m in gap_groups(constraint, case.snapshot)]
        self.matrix = np.array(sets).reshape(len(sets), case.snapshot.samples)

    def broken(self, shares: Array) -> Array:
        """By how much shares [S, ...] of right samples break the constraints, added up."""
        total = np.zeros(shares.shape[1:])
        for index, floor in self._floors:
            total += np.maximum(0.0, floor - shares[index] - SLACK)
        for index, most in self._gaps:
            total += np.maximum(0.0, np.abs(shares[index] - shares[index + 1]) - most - SLACK)
        return total


class Lines:
    """A point that moves along lines: its scores [N, K], and its cost with a price on what is broken."""

    def __init__(self, case: Case, rng: np.random.Generator, vector: Array) -> None:
        self.case, self.rng = case, rng
        self.shares = Shares(case)
        self.targets = case.snapshot.targets
        self._rows = np.arange(case.snapshot.samples)
        self._units, self._inputs = case.snapshot.weight.shape
        self.cost, self._broken = math.inf, math.inf
        self.move_to(vector)

    def move_to(self, vector: Array) -> None:
        """Stand at this vector."""
        self.vector = self.case.clip(vector)
        self.scores = self.case.scores(self.vector)
        self._look()

    def search(self, *, until: float) -> None:
        """Try directions until a share of the clock is used; when nothing moves any more, kick the best point."""
        idle = 0
        while self.case.clock.used < until and self.case.clock.step():
            idle = 0 if self.try_direction(self.draw()) else idle + 1
            if idle > 60 + 2 * self._units:
                idle, size = 0, 0.15 * self.rng.random() ** 2
                kick = size * self.case.radius * self.rng.normal(size=len(self.vector))
                self.move_to((self.case.vector if np.isfinite(self.case.best) else self.vector) + kick)

    def biases(self, sweeps: int = 4) -> None:
        """Move one bias at a time to its best value while that helps."""
        bias = self.case.parts[0].bias
        if not isinstance(bias, slice):
            return
        for _ in range(sweeps):
            moved = False
            for unit in self.rng.permutation(self._units):
                if not self.case.clock.step():
                    return
                direction = np.zeros_like(self.vector)
                direction[bias.start + unit] = 1.0
                moved |= self.try_direction(direction)
            if not moved:
                return

    def draw(self) -> Array:
        """A random direction [P]: a bias, a weight, a class's row, or towards a wrong sample."""
        direction, kind = np.zeros_like(self.vector), self.rng.random()
        weight = direction[: self._units * self._inputs].reshape(self._units, self._inputs)
        bias = direction[weight.size :]
        unit = int(self.rng.integers(self._units))
        if kind < 0.2 and bias.size:
            bias[unit] = 1.0
        elif kind < 0.45:
            weight[unit, self.rng.integers(self._inputs)] = 1.0
        elif kind < 0.7:
            weight[unit] = self.rng.normal(size=self._inputs) * (self.rng.random(self._inputs) < 0.3)
            bias[unit : unit + 1] = self.rng.normal()
        else:
            wrong = np.flatnonzero(self.margin < CLEAR)
            sample = int(self.rng.choice(wrong)) if wrong.size else int(self.rng.integers(len(self._rows)))
            own, rival = int(self.targets[sample]), int(self._rival[sample])
            for row, sign in ((own, 1.0), (rival, -1.0)) if kind < 0.9 else ((own, 1.0),):
                weight[row] = sign * self.case.inputs[sample]
                bias[row : row + 1] = sign
        return direction

    def try_direction(self, direction: Array) -> bool:
        """Go to the best step along a direction [P]; true where the cost came down."""
        low, high = self.reach(direction)
        if not low < high:
            return False
        weight, bias = self.case.layers(direction)[0]
        moving = np.flatnonzero(np.abs(weight).any(axis=1) | (0 if bias is None else bias != 0))
        change = self.case.inputs @ weight[moving].T + (0.0 if bias is None else bias[moving])
        starts, ends = self._intervals(moving, change, low, high)
        step, cost = self._best_step(starts, ends, moving, change, low, high)
        if cost > self.cost or step == 0:
            return False
        before, standing = self.cost, (self.vector, self.scores)
        self.vector = self.case.clip(self.vector + step * direction)
        self.scores = self.scores.copy()
        self.scores[:, moving] += step * change
        self._look()
        if self.cost > before:
            self.vector, self.scores = standing
            self._look()
            return False
        if self._broken == 0 and self.cost < self.case.best:
            self.case.offer(self.vector)
        return bool(self.cost < before)

    def _look(self) -> None:
        """Margins, the strongest rival and the second [N], and the cost of where we stand."""
        rivals = self.scores.copy()
        rivals[self._rows, self.targets] = -np.inf
        self._rival = rivals.argmax(axis=1)
        self._first = rivals[self._rows, self._rival]
        rivals[self._rows, self._rival] = -np.inf
        self._second = rivals.max(axis=1)
        self.margin = self.scores[self._rows, self.targets] - self._first
        self._broken = float(self.shares.broken(self.shares.matrix @ (self.margin >= CLEAR)))
        self.cost = self._loss(self.margin) + PRICE * self._broken

    def _loss(self, margin: Array) -> float:
        goal = self.case.spec.goal
        if goal.name == "zero_one":
            return float(self.case.weights @ (margin < CLEAR))
        loss = np.maximum(0.0, 1.0 - margin / goal.margin)
        return float(self.case.weights @ (np.minimum(1.0, loss) if goal.name == "ramp" else loss))

    def reach(self, direction: Array) -> tuple[float, float]:
        """The steps from here to the two ends of the box."""
        if not direction.any():
            return 0.0, 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = (self.case.low - self.vector) / direction, (self.case.high - self.vector) / direction
        moves = direction != 0
        low = np.where(direction > 0, *ends)[moves].max(initial=-np.inf)
        high = np.where(direction > 0, ends[1], ends[0])[moves].min(initial=np.inf)
        return min(0.0, float(low)), max(0.0, float(high))

    def _intervals(self, moving: Array, change: Array, low: float, high: float) -> tuple[Array, Array]:
        """Where each sample is right: first and last step [N], the first above the last where it is nowhere."""
        own = self.scores[self._rows, self.targets]
        if len(moving) == 1:  # one class: its margin is one line, all others stand still
            unit = int(moving[0])
            mine = self.targets == unit
            rest = np.where(self._rival == unit, self._second, self._first)
            gaps = np.where(mine, own - rest, own - self.scores[:, unit])
            slopes = np.where(mine, 1.0, -1.0) * change[:, 0]
            starts, ends = _line(gaps - CLEAR, slopes, low, high)
            return np.where(mine | (own - rest >= CLEAR), starts, np.inf), ends
        full = np.zeros_like(self.scores)
        full[:, moving] = change
        gaps = own[:, None] - self.scores - CLEAR
        gaps[self._rows, self.targets] = np.inf
        starts, ends = _line(gaps, full[self._rows, self.targets][:, None] - full, low, high)
        return np.asarray(starts.max(axis=1)), np.asarray(ends.min(axis=1))

    def _best_step(
        self, starts: Array, ends: Array, moving: Array, change: Array, low: float, high: float
    ) -> tuple[float, float]:
        """The step in the middle of the cheapest stretch, and its cost."""
        some = np.flatnonzero(starts <= ends)
        if not some.size:
            return 0.0, np.inf
        at = np.concatenate([starts[some], ends[some]])
        order = np.argsort(at, kind="stable")  # starts stand before ends, so equal steps open before they close
        at, who = at[order], np.concatenate([some, some])[order]
        sign = np.repeat([1.0, -1.0], some.size)[order]
        middles = np.append((at[:-1] + at[1:]) / 2, high)
        broken = self.shares.broken(np.cumsum(self.shares.matrix[:, who] * sign, axis=1))
        if self.case.spec.goal.name == "zero_one":
            cost = self.case.weights.sum() - np.cumsum(self.case.weights[who] * sign) + PRICE * broken
            best = int(cost.argmin())
            return float(middles[best]), float(cost[best])
        allowed = middles[broken <= max(self._broken, float(broken.min()))]
        trials = allowed[np.linspace(0, allowed.size - 1, min(TRIALS, allowed.size)).astype(int)]
        if not len(self.shares.matrix):  # a ramp's best step may be where nobody turns right, and is often a short one
            trials = np.unique(np.concatenate([trials, np.linspace(low, high, 9), trials * 0.1]))
        return self._best_trial(trials, moving, change)

    def _best_trial(self, trials: Array, moving: Array, change: Array) -> tuple[float, float]:
        """The trial step [T] with the least cost, by evaluating it."""
        costs = []
        for step in trials:
            scores = self.scores.copy()
            scores[:, moving] += step * change
            margin = margins(scores, self.targets)
            shares = self.shares.matrix @ (margin >= CLEAR)
            costs.append(self._loss(margin) + PRICE * float(self.shares.broken(shares)))
        best = int(np.argmin(costs))
        return float(trials[best]), costs[best]


def _line(gaps: Array, slopes: Array, low: float, high: float) -> tuple[Array, Array]:
    """The steps from low to high on which gaps + step * slopes >= 0: their first and last."""
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = -gaps / slopes
    starts = np.where(slopes > 0, roots, np.where((slopes == 0) & (gaps < 0), np.inf, low))
    return np.maximum(starts, low), np.minimum(np.where(slopes < 0, roots, high), high)
