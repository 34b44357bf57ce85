"""What an annealed descent follows where every output counts by itself: labels, and values off by a tolerance."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.special import expit

from shared.objectives import EPSILON
from solver_service.milp.core.problem import Array, Index, Problem
from solver_service.milp.heuristics.descents.annealed_counts import ABOVE
from solver_service.milp.heuristics.descents.single_precision import Singles


@dataclass(frozen=True, eq=False)
class AnnealedEach:
    """The stand-in of zero_one and ramp over labels, and of outliers, at outputs [n, h] in units of `unit`.

    `wanted` [n, h] are the labels' sides, 1 or -1, or the values; `weights` [n, 1] sum to 1. No shares are asked for.
    """

    name: str
    unit: float
    wanted: Singles
    weights: Singles
    tolerance: float
    asked: int = 0

    @classmethod
    def of(cls, problem: Problem, unit: float) -> Self:
        """Of a problem of several labels, or of values."""
        targets = problem.targets.astype(np.float64).reshape(len(problem.scores), -1)
        labels = problem.snapshot.task != "regression"
        weights = problem.weights / problem.weights.sum()
        return cls(
            name=problem.objective.name,
            unit=unit,
            wanted=(2 * targets - 1 if labels else targets / unit).astype(np.float32),
            weights=weights.astype(np.float32)[:, None],
            tolerance=(problem.objective.tolerance or 0.0) / unit,
        )

    def part(self, samples: Index) -> Self:
        """The same of some samples, that stand for all."""
        weights = self.weights[samples]
        return replace(self, wanted=self.wanted[samples], weights=weights / weights.sum())

    def raised(self, multipliers: Array, lack: Array, part: float) -> Array:
        """Nothing is asked for."""
        return multipliers

    def __call__(
        self, outputs: Singles, width: float, multipliers: Array, price: float
    ) -> tuple[float, Singles, Array]:
        """Value, slopes [n, h], and what shares lack: nothing."""
        wide = np.float32(width)
        if self.name == "outliers":
            error = outputs - self.wanted
            value, by_error = self._beyond((np.abs(error) - np.float32(self.tolerance)) / wide)
            slope = by_error / wide * np.sign(error)
        else:
            margin = outputs * self.wanted
            if self.name == "ramp":
                short, beyond = (np.float32(1.0) - margin) / wide, -margin / wide
                value = float((wide * self.weights * (_softplus(short) - _softplus(beyond))).sum())
                by_margin = self.weights * (expit(beyond) - expit(short))
            else:
                value, by_margin = self._beyond((np.float32(ABOVE * EPSILON / self.unit) - margin) / wide)
                by_margin = -by_margin / wide
            slope = by_margin * self.wanted
        return value, slope, np.zeros(0)

    def _beyond(self, behind: Singles) -> tuple[float, Singles]:
        """How much counts as behind, in all, and its slope [n, h]."""
        counted = expit(behind)
        return float((self.weights * counted).sum()), np.asarray(self.weights * counted * (1 - counted))


def _softplus(values: Singles) -> Singles:
    return np.asarray(np.logaddexp(np.float32(0.0), values))
