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

RATES, AROUND = (0.1, 0.02, 0.004), (1.0, 0.3)
"""Of the first arms, in radii; later ones are these multiples of the best one's."""
FIRST_S, LONGER, SHARE = 0.15, 2.0, 0.3
"""How long the first run takes, how much longer each next one does, and of the time that is left at most."""
STEPS, EPOCHS = 1_000_000, 12
"""More than any run by the clock takes; passes over the samples where rounds stand for it."""
JUDGES = 2048
"""Samples that say which arm is best."""


def convex_of(problem: Problem) -> Problem:
    """The same with the convex objective that is nearest to a problem's own."""
    if problem.snapshot.task == "regression":
        objective = replace(problem.objective, name="huber", delta=problem.objective.tolerance or 1.0)
    else:
        objective = replace(problem.objective, name="log_loss")
    return replace(problem, objective=objective)


@dataclass(eq=False)
class StandInDescents:
    """A strategy: each `advance` is a longer run than the one before, from where that ended, until one gains nothing.

    Where a walk knows the constraints they are mended.
    """

    problem: Problem
    block: SinglePrecision
    incumbents: Incumbents
    walk: Walk | None
    rng: np.random.Generator
    reproducible: bool
    _rates: tuple[float, ...] = RATES
    _seconds: float = FIRST_S
    _reached: Singles | None = None
    _slopes: Slopes = field(init=False)

    def __post_init__(self) -> None:
        self._slopes = slopes_of(convex_of(self.problem), self.block.unit)
        self._weights = (self.problem.weights / self.problem.weights.mean()).astype(np.float32)
        self._judges = self.rng.permutation(len(self._weights))[:JUDGES]

    def advance(self, budget: Budget) -> bool:
        """Run for a while and offer the best end; False once that gained nothing."""
        before, began = self.incumbents.best.objective, budget.control.elapsed
        seconds = min(self._seconds, budget.share(SHARE).until - began)
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
        best = int(self._values(ends).argmin())
        self._reached, rate = ends[best], self._rates[best]
        self._rates, self._seconds = tuple(rate * times for times in AROUND), LONGER * self._seconds
        change = self._reached.astype(np.float64)
        if self.walk is not None and not budget.over:
            offer_mended(change, self.walk, self.incumbents, budget)
        else:
            self.incumbents.offer_whole(change)
        return self.incumbents.best.objective < before

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
        outputs = np.float32(self.block.unit) * self.block.rows(ends, rows)
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
