"""Minibatch descents on the convex objective next to a count: far from any good weights, counts say little of the way.

Cross-entropy for classes and labels, Huber's loss for values; what its own program is too large for.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import logsumexp

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Problem
from solver_service.milp.heuristics.descents.adam import Arms, batch_size, descend
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision, Singles
from solver_service.milp.heuristics.descents.slopes import Slopes, slopes_of
from solver_service.milp.heuristics.walks.mending import offer_mended
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

RATES, SLOWER, FASTER = (0.1, 0.02, 0.004), 0.3, 4.0
"""Of the first arms, in radii; how much lower it is after a run without a gain, and how much higher after the first,
which is far shorter than any other, where a count is to gain from it: large scores do."""
FIRST_S, LONGER, ALONE, SHARE_OF_TURNS = 0.15, 16.0, 0.9, 0.3
"""How long the first run takes, how much longer each next one does, and of the time that is left at most: while it is
alone, and in turns with others."""
STRETCHES = (1.0, 0.5, 2.0, 4.0, 8.0)
"""Multiples of an end that are tried where margins count."""
GAINS, TRIES = 0.1, 2
"""A run that makes the stand-in better by less of its value is not much; after so many in vain it ends."""
STEPS, EPOCHS = 1_000_000, 12
"""More than any run by the clock takes; passes over the samples where rounds stand for it."""
SCALE_FREE, LARGE_SCORE = ("zero_one", "worst_class", "worst_group"), 10.0
"""Objectives of signs alone; the typical score that the stand-in sees at least of what the box can reach."""
JUDGES = 2048
"""Samples that say which arm is best."""


def convex_of(problem: Problem) -> Problem:
    """The same with the convex objective that is nearest to a problem's own."""
    if problem.snapshot.task == "regression":
        objective = replace(problem.objective, name="huber", delta=problem.objective.tolerance or 1.0)
    else:
        objective = replace(problem.objective, name="log_loss")
    return replace(problem, objective=objective)


def sharpness(problem: Problem) -> float:
    """What scores are multiplied by in the stand-in: counts have no unit, and in a small box cross-entropy never sees
    more than small scores."""
    if problem.objective.name not in SCALE_FREE:
        return 1.0
    reached = float(np.linalg.norm(problem.stride[:, :-1], axis=1).max())
    # Weights that were trained have a scale of their own: two standard deviations are large.
    return max(1.0, LARGE_SCORE / max(1e-30, reached, 2 * problem.spread))


@dataclass(eq=False)
class StandInDescents:
    """A strategy: each `advance` is a longer run than the one before, from the best end, until two gain nothing.

    Where a walk knows the constraints they are mended. It is `gaining` while runs make the stand-in much better.
    """

    problem: Problem
    block: SinglePrecision
    incumbents: Incumbents
    walk: Walk | None
    rng: np.random.Generator
    reproducible: bool
    gaining: bool = True
    share: float = ALONE
    _rates: tuple[float, ...] = RATES
    _seconds: float = FIRST_S
    _least: float = np.inf
    _ran_s: float = 0.0
    _in_vain: int = 0
    _reached: Singles | None = None
    _unit: float = field(init=False)
    _slopes: Slopes = field(init=False)

    def __post_init__(self) -> None:
        self._unit = sharpness(self.problem) * self.block.unit
        self._slopes = slopes_of(convex_of(self.problem), self._unit)
        self._weights = (self.problem.weights / self.problem.weights.mean()).astype(np.float32)
        self._judges = self.rng.permutation(len(self._weights))[:JUDGES]
        self._judge = self.problem.part(self._judges)

    def advance(self, budget: Budget) -> bool:
        """Run for a while and offer the best end; False once that gains nothing, or no time is left for it."""
        if not (self.reproducible or self.fits(budget)):
            return False
        before, began = self.incumbents.best.objective, budget.control.elapsed
        left = budget.until - began
        seconds = min(self._seconds, max(self.share * left, self._ran_s), ALONE * left)
        ends = descend(
            self.block,
            self._slopes,
            self._weights,
            np.zeros(len(self._weights), dtype=np.int64),
            self._arms(),
            steps=self._steps,
            rng=self.rng,
            should_stop=lambda: budget.over,
            time_left=lambda: 1.0 if self.reproducible else 1.0 - (budget.control.elapsed - began) / seconds,
        )
        self._ran_s = budget.control.elapsed - began
        best = int(np.argmin([self._judged(end) for end in ends]))
        value = float(self._values(ends[best : best + 1])[0])
        self.gaining = value < (1 - GAINS) * self._least
        rate = self._rates[best]
        if value < self._least:
            self._reached, self._least = ends[best], value
            self._in_vain = 0
        else:
            rate, self._in_vain = SLOWER * rate, self._in_vain + 1
        if len(ends) > 1 and self.problem.objective.name != "log_loss":
            rate = min(RATES[0], FASTER * rate)
        self._rates, self._seconds = (rate,), LONGER * self._seconds
        change = self._stretched(ends[best]).astype(np.float64)
        if self.walk is not None and not budget.over:
            offer_mended(change, self.walk, self.incumbents, budget)
        else:
            self.incumbents.offer_whole(change)
        return self._in_vain < TRIES or self.incumbents.best.objective < before

    def fits(self, budget: Budget) -> bool:
        """Whether another run could be as long as the last one: a shorter one rather loses what that gained."""
        return budget.until - budget.control.elapsed > self._ran_s

    def _stretched(self, end: Singles) -> Singles:
        """The end, or a multiple of it inside the box: margins of 1 are nothing that cross-entropy knows."""
        if self.problem.objective.name not in ("ramp", "hinge"):
            return end
        ends: list[Singles] = [np.clip(np.float32(times) * end, -1.0, 1.0) for times in STRETCHES]
        return min(ends, key=self._judged)

    def _judged(self, end: Singles) -> float:
        """The job's own value of an end, over some of the samples."""
        return self._judge.loss(self.block.unit * self.block.rows(end[None], self._judges)[:, 0, :].astype(np.float64))

    @property
    def _steps(self) -> int:
        samples = len(self._weights)
        return EPOCHS * -(-samples // batch_size(samples)) if self.reproducible else STEPS

    def _arms(self) -> Arms:
        count = len(self._rates)
        start = np.zeros_like(self.block.reach) if self._reached is None else self._reached
        return Arms(
            changes=np.repeat(start[None], count, axis=0),
            rate=np.array(self._rates, dtype=np.float32),
            width=np.ones(count, dtype=np.float32),
            weights=np.ones((count, 1), dtype=np.float32),
        )

    def _values(self, ends: Singles) -> Singles:
        """The stand-in's value of each end, over some of the samples."""
        rows = self._judges
        outputs = np.float32(self._unit) * self.block.rows(ends, rows)
        targets = self.problem.targets[rows].astype(np.float32)
        match self.problem.snapshot.task:
            case "classification":
                own = outputs[np.arange(rows.size), :, targets.astype(np.int64)]
                losses = logsumexp(outputs, axis=2) - own
            case "regression":
                losses = np.abs(outputs - targets.reshape(rows.size, 1, -1)).sum(axis=2)
            case _:
                side = 2 * targets.reshape(rows.size, 1, -1) - 1
                losses = np.logaddexp(np.float32(0.0), -side * outputs).sum(axis=2)
        return np.asarray(self._weights[rows] @ losses)
