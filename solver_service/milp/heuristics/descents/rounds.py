"""Rounds of descents that learn from one another: the best rates, widths, weights and places breed the next ones."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Index, Problem
from solver_service.milp.heuristics.descents.adam import Arms, batch_size, descend
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision, Singles
from solver_service.milp.heuristics.descents.slopes import natural_widths, slopes_of
from solver_service.milp.heuristics.walks.mending import mend
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

RATES = (0.01, 0.4)
FIRST_RATES = (0.1, 0.2, 0.05)
FIRST_ARMS = len(FIRST_RATES)
FIRST_EPOCHS, EPOCHS = 12, (48, 96, 192, 384)
TURN_EPOCHS = (12, 24, 48, 48)
"""Passes over the samples in the first two rounds and in later ones, by the clock and where rounds stand for it."""
LONG_EPOCHS = 192
"""Two arms of fewer epochs than that are worth less than one of twice as many: rates that fall slowly end lower."""
ARMS, ANOTHER_ARM = 6, 0.3
"""Arms of a round at most, and how much longer a step takes for each one more, as a part of what one alone takes."""
LATE = 1.1
"""How much longer than planned a round may take before its rates fall by the clock."""
ELITE = 8
PARENTS = 4
FIRST_S = 0.15
"""How long the first round takes at most, unless a dozen steps take longer."""
FEWEST_STEPS = 12
ROUND_SHARE, LONG_SHARE = 0.3, 0.8
"""Of the time that is left, what a later round may take; more, up to the second, until one long descent fits in."""
JUDGED, JUDGES = 1 << 30, 4096
"""Coefficients (samples times changes) up to which all samples say how good an end is, and how many do of more."""
REPAIRS, WIDER_REPAIRS = 60, 200
"""Line searches that a descent's end gets to keep the constraints: along biases, then along anything."""
BREED, WARM = 0.6, 0.5
"""How often an arm takes after a parent, and how often a round begins where parents ended."""


@dataclass(frozen=True, eq=False)
class Ended:
    """Where an arm ended, how good that is, and what it was told; `rate` is that of the arm's first ancestor."""

    value: float
    change: Singles
    rate: float
    width: float
    weights: Singles


@dataclass(eq=False)
class Descents:
    """A strategy of the schedule: each `advance` is one round of arms side by side, its best ends offered."""

    problem: Problem
    tally: Tally
    incumbents: Incumbents
    rng: np.random.Generator
    reproducible: bool
    walk: Walk
    elite: list[Ended] = field(default_factory=list)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.block = SinglePrecision.of(self.problem)
        self._slopes = slopes_of(self.problem, self.block.unit)
        self._natural, *self._widths = natural_widths(self.problem)
        cost = self.problem.cost
        self._weights = (cost / cost.mean()).astype(np.float32)
        self._epoch = -(-len(cost) // batch_size(len(cost)))
        self._blank = self.problem.spread == 0
        self._step_s = 0.0

    def advance(self, budget: Budget) -> bool:
        """Run one round; False when there is no time for another."""
        warm = len(self.elite) >= PARENTS and self.rng.random() < WARM
        steps, count = self._plan(budget)
        if steps < FEWEST_STEPS and (self.rounds > 0 or not steps):
            return False
        arms = self._arms(count, warm)
        began = budget.control.elapsed
        planned = LATE * steps * _load(count) * self._step_s
        ends = descend(
            self.block,
            self._slopes,
            self._weights,
            self.tally.cell,
            arms,
            steps=steps,
            rng=self.rng,
            should_stop=lambda: budget.over,
            time_left=lambda: self._time_left(budget.control.elapsed - began, planned),
        )
        self._step_s = (budget.control.elapsed - began) / (steps * _load(count))
        self._gather(arms, ends, warm, budget)
        self.rounds += 1
        return True

    def _time_left(self, spent_s: float, planned_s: float) -> float:
        """The share of a round's time that is left: where the machine is slower than before, rates fall sooner."""
        return 1.0 if self.reproducible or planned_s == 0 else 1.0 - spent_s / planned_s

    def _plan(self, budget: Budget) -> tuple[int, int]:
        """Steps and arms of a round: as many epochs as it is drawn to have and as fit into the time, of few arms if
        they would not be long otherwise."""
        if self.reproducible:
            epochs = FIRST_EPOCHS if self.rounds < 2 else int(self.rng.choice(TURN_EPOCHS))
            return epochs * self._epoch, FIRST_ARMS if self.rounds == 0 else ARMS
        if self.rounds == 0:
            # Nothing is known of a step's time yet: two of them are tried.
            step_s = self._probed(budget)
            if self.incumbents.history and FEWEST_STEPS * step_s > budget.until - budget.control.elapsed:
                return 0, FIRST_ARMS  # somebody has been better, and this would be late
            return int(np.clip(FIRST_S / step_s, FEWEST_STEPS, FIRST_EPOCHS * self._epoch)), FIRST_ARMS
        left = budget.until - budget.control.elapsed
        long = LONG_EPOCHS * self._epoch
        # A share of what is left, or more of it for one long descent.
        seconds = min(LONG_SHARE * left, max(ROUND_SHARE * left, long * self._step_s))
        # How many steps of a single arm fit in.
        room = seconds / max(self._step_s, 1e-6)
        fewest = FIRST_ARMS if self.tally.asks else 1
        count = next((count for count in range(ARMS, fewest, -1) if room >= long * _load(count)), fewest)
        wanted = (EPOCHS[-1] if self.rounds == 1 else int(self.rng.choice(EPOCHS))) * self._epoch
        return int(min(wanted, room / _load(count))), count

    def _probed(self, budget: Budget) -> float:
        """How long a step of the first arms takes, in seconds."""
        began = budget.control.elapsed
        arms = self._arms(FIRST_ARMS, warm=False)
        descend(self.block, self._slopes, self._weights, self.tally.cell, arms, steps=2, rng=self.rng, should_stop=bool)
        return max(1e-6, (budget.control.elapsed - began) / 2)

    def _arms(self, count: int, warm: bool) -> Arms:
        """Draw the arms of a round: new ones, and ones that take after what has paid."""
        changes = np.repeat(self._origin[None], count, axis=0)
        rate, width = np.zeros(count), np.zeros(count)
        weights = np.ones((count, self.tally.cells))
        # What did best in the short first round is done again at length before anything else is tried.
        again = self.rounds == 1 and not self.reproducible
        for arm in range(count):
            rate[arm], width[arm], weights[arm] = self._told(arm, again)
            if warm:
                changes[arm] = self._parent().change
                rate[arm] *= self.rng.choice([0.1, 0.3, 1.0])
        singles = [array.astype(np.float32) for array in (rate, width, weights)]
        return Arms(changes, *singles)

    @property
    def _origin(self) -> Singles:
        """Where arms begin that take after no other's end: at the start, unless all scores are alike there.

        Nothing pulls a count or a ramp from there; what others have found has a side for every sample.
        """
        if self._blank:
            return self.incumbents.whole_change.astype(np.float32)
        return np.zeros_like(self.block.reach)

    def _told(self, arm: int, again: bool) -> tuple[float, float, Array]:
        """The rate, the width and the cells' weights [cells] of an arm: drawn at random, or much like a parent's."""
        rate = FIRST_RATES[arm] if self.rounds == 0 else _log_uniform(self.rng, *RATES)
        width = self._natural if self.rounds == 0 else _log_uniform(self.rng, *self._widths)
        weights: Array = np.ones(self.tally.cells)
        if self.tally.asks:
            # The rarer a cell, the more its samples have to count where shares of cells are asked for.
            # A power drawn from [0, 1]: from all alike to every cell with the same total.
            weights = np.asarray(self._rarity ** self.rng.random())
        if self.elite and self.rounds > 0 and (again or self.rng.random() < BREED):
            parent = self.elite[0] if again else self._parent()
            noise = 0.0 if again and arm == 0 else 1.0
            rate = parent.rate * np.exp(0.3 * noise * self.rng.normal())
            width = parent.width * np.exp(0.2 * noise * self.rng.normal())
            weights = np.asarray(parent.weights * np.exp(0.2 * self.rng.normal(size=self.tally.cells)))
        return float(rate), float(width), weights

    @property
    def _rarity(self) -> Array:
        share = self.tally.total / self.tally.total.sum()
        return np.asarray(1.0 / np.maximum(share * self.tally.cells, 1e-9))

    def _parent(self) -> Ended:
        return self.elite[int(self.rng.integers(min(PARENTS, len(self.elite))))]

    def _gather(self, arms: Arms, ends: Singles, warm: bool, budget: Budget) -> None:
        """Value the ends, offer the best, and keep the elite of all rounds."""
        values = self._values(ends)
        order = np.argsort(values, kind="stable")
        for arm in order.tolist():
            # A warm arm began where others ended, with a rate cut down for that; its parents' is what breeds.
            rate = self._parent().rate if warm else float(arms.rate[arm])
            self.elite.append(Ended(values[arm], ends[arm], rate, float(arms.width[arm]), arms.weights[arm]))
        self._offer(ends[order[0]], budget)
        self.elite.sort(key=lambda ended: ended.value)
        del self.elite[ELITE:]

    def _values(self, ends: Singles) -> list[float]:
        """How good each end is; where constraints are asked for, with what they lack as a price.

        Where that would take long and nothing is asked, of some samples.
        """
        rows, judges = self._judges
        outputs = self.block.rows(ends, rows)
        found = []
        for arm in range(len(ends)):
            # From [n, a, h] in units of `unit` to float64 scores [n, h].
            scores = outputs[:, arm, :].astype(np.float64) * self.block.unit
            found.append(self.walk.priced(scores) if self.tally.asks else judges.loss(scores))
        return found

    @cached_property
    def _judges(self) -> tuple[Index | slice, Problem]:
        """The samples that say how good an end is."""
        samples = len(self.problem.inputs)
        if self.tally.asks or samples * self.problem.columns <= JUDGED:
            return slice(None), self.problem
        rows = np.sort(self.rng.permutation(samples)[:JUDGES])
        return rows, self.problem.part(rows)

    def _offer(self, end: Singles, budget: Budget) -> None:
        change = end.astype(np.float64)
        if self.tally.asks:
            change = self._repaired(change, budget)
        self.incumbents.offer_whole(change)

    def _repaired(self, change: Array, budget: Budget) -> Array:
        """The change after some line searches, biases first, where it breaks constraints on samples."""
        mend(change, self.walk, budget, REPAIRS, WIDER_REPAIRS)
        return self.walk.change


def _load(count: int) -> float:
    """How long a step of so many arms takes, by that of one: their samples are gathered once for all of them."""
    return 1 + ANOTHER_ARM * (count - 1)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
