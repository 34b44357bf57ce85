"""Descents of a whole network on counts that grow sharp: wide sigmoids first, which see samples that are far off."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.contracts import Constraint
from shared.objectives import Objective, sample_weights
from shared.snapshot import Snapshot, label_targets, regression_targets
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Mask
from solver_service.milp.heuristics.descents.annealed_counts import PRICE, RAISED_EVERY, AnnealedCounts
from solver_service.milp.heuristics.descents.annealed_each import AnnealedEach
from solver_service.milp.heuristics.descents.moments import Moments
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.network.joint.evaluator import Evaluator, Real
from solver_service.milp.network.joint.stand_ins import StandIn

STEPS, FEWEST, MOST, PART = 300, 40, 2000, 0.4
"""Of one descent. By the clock as many as fit into this part of what is left, within a range: slow ones end lower."""
TIMED = 5
"""After so many it is known what one takes."""
RATE = 0.05
"""Adam's, in half-widths of the box, or units of a variable where these are less; it falls to 0 as a cosine."""
NARROWEST = 0.02
"""Where the sigmoid's width ends, in standard deviations of the outputs that a descent begins with."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Those of positive weight, as counts are of them: `weights` and `targets` [n]."""

    snapshot: Snapshot
    objective: Objective
    constraints: tuple[Constraint, ...]
    weights: Array
    targets: NDArray[np.generic]


class Annealing:
    """Counts of a network's outputs, and descents on them; `kept` [N] are the samples of positive weight."""

    def __init__(self, counts: AnnealedCounts | AnnealedEach, kept: Mask, unit: float) -> None:
        self._counts, self._kept, self._unit = counts, kept, unit
        self._width, self._multipliers, self._lack = 1.0, np.zeros(counts.asked), np.zeros(counts.asked)

    @classmethod
    def of(cls, snapshot: Snapshot, goal: Objective, constraints: tuple[Constraint, ...]) -> Self:
        """Set it up for classes, one label each, several labels, or values that are off by a tolerance."""
        weights = sample_weights(snapshot)
        kept = weights > 0
        if snapshot.task not in ("classification", "binary"):
            return cls(_each(snapshot, goal, weights, kept), kept, 1.0)
        samples = Samples(snapshot, goal, constraints, weights[kept], np.asarray(snapshot.targets)[kept])
        unit = goal.margin if goal.name in ("ramp", "hinge") else 1.0
        return cls(AnnealedCounts.of(samples, Tally.of(samples), unit), kept, unit)

    def descend(self, evaluator: Evaluator, begin: Array, budget: Budget) -> Array:
        """Where projected Adam ends that begins at these variables [size]."""
        evaluate = evaluator.following(StandIn(self._function))
        low, high = evaluate.lower, evaluate.upper
        reach, spread = np.minimum((high - low) / 2, 1.0), float(np.std(evaluate.outputs(begin))) or 1.0
        variables, moments = np.clip(begin, low, high), Moments(np.zeros_like(begin), np.zeros_like(begin))
        self._multipliers = np.zeros(self._counts.asked)
        began, steps, step = budget.control.elapsed, STEPS, 0
        while step < steps and not budget.over:
            step += 1
            self._width = spread * NARROWEST ** (step / steps)
            gradient = reach * evaluate(variables)[1]
            if step % RAISED_EVERY == 0:
                self._multipliers = self._counts.raised(self._multipliers, self._lack, step / steps)
            mean, size = moments.take(gradient)
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            variables = np.clip(variables - rate * reach * (mean / size), low, high)
            if step == TIMED and budget.timed:
                each, left = (budget.control.elapsed - began) / step, budget.until - budget.control.elapsed
                steps = int(np.clip(PART * left / max(each, 1e-9), FEWEST, MOST))
        return variables

    def _function(self, outputs: Real) -> tuple[float, Real]:
        """Value and slopes [K, n] at outputs [K, n]."""
        scores = (outputs.T[self._kept] / self._unit).astype(np.float32)
        value, slope, self._lack = self._counts(scores, self._width / self._unit, self._multipliers, PRICE)
        found = np.zeros(outputs.shape)
        found[:, self._kept] = slope.T / self._unit
        return value, found


def _each(snapshot: Snapshot, goal: Objective, weights: Array, kept: Mask) -> AnnealedEach:
    """What is counted where every output counts by itself, over the samples [N] that are kept."""
    values = snapshot.task == "regression"
    wanted = regression_targets(snapshot) if values else 2.0 * label_targets(snapshot) - 1.0
    share = weights[kept] / weights[kept].sum()
    return AnnealedEach(
        name=goal.name,
        unit=1.0,
        wanted=wanted[kept].astype(np.float32),
        weights=share.astype(np.float32)[:, None],
        tolerance=goal.tolerance or 0.0,
    )
