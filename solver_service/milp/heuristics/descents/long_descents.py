"""Long descents on all samples at once, from where short ones ended: what is left once minibatches stand still."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, minimize

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.descents.slopes import losses_of, natural_widths, slopes_of
from solver_service.milp.rounding.incumbents import Incumbents

ITERATIONS = 150
KICK = 0.3
OFFER_EVERY = 10
"""Evaluations between two looks at what the objective itself says of the best so far."""
LONGEST_S = 2.0
SHORTEST = 8
"""Evaluations that have to fit into the time that is left."""


class _Over(Exception):  # noqa: N818 (an end, not an error)
    """Raised inside a callback to end a descent."""


@dataclass(eq=False)
class Polishing:
    """A strategy: each `advance` is one run of L-BFGS-B (Byrd et al. 1995) on the stand-in, from the incumbent.

    The first begins right there, later ones from a kick of a random reach; widths vary around the natural one.
    """

    problem: Problem
    block: SinglePrecision
    incumbents: Incumbents
    rng: np.random.Generator
    reproducible: bool
    _runs: int = 0
    _evaluation_s: float = 0.0

    def __post_init__(self) -> None:
        self._slopes = slopes_of(self.problem, self.block.unit)
        self._losses = losses_of(self.problem, self.block.unit)
        self._natural, self._low, self._high = natural_widths(self.problem)
        cost = self.problem.cost
        self._weights = (cost / cost.mean()).astype(np.float32)[:, None]

    def advance(self, budget: Budget) -> bool:
        """Run once; False when too little time is left for it."""
        left = budget.until - budget.control.elapsed
        if not self.reproducible and SHORTEST * self._evaluation_s > left:
            return False
        start = self.incumbents.whole_change
        width = self._natural
        if self._runs:
            reach = KICK * self.rng.random() ** 2
            start = np.clip(start + reach * self.problem.pace * self.rng.normal(size=start.shape), -1.0, 1.0)
            width = float(np.clip(width * np.exp(0.7 * self.rng.normal()), self._low, self._high))
        self._runs += 1
        until = budget.control.elapsed + min(left, LONGEST_S)
        self._descend(start, width, budget, np.inf if self.reproducible else until)
        return True

    def _descend(self, start: Array, width: float, budget: Budget, until: float) -> None:
        best, least, count, pace = start, np.inf, 0, self.problem.pace
        samples, widths = np.arange(len(self.block.inputs)), np.array([width], dtype=np.float32)

        def value_and_slope(flat: Array) -> tuple[float, Array]:
            nonlocal best, least, count
            if count and (budget.over or budget.control.elapsed > until):
                raise _Over
            began = budget.control.elapsed
            # One arm: [1, h, c].
            change = pace * flat.reshape(start.shape)
            outputs = self.block.outputs(change.astype(np.float32)[None])
            value = self._losses(outputs, widths, self._weights)
            slope = self._slopes(outputs, samples, widths, self._weights)
            # [h, n] @ [n, c], by the change through the reach [h, c].
            gradient = pace * self.block.reach * (slope[:, 0, :].T @ self.block.inputs)
            if value < least:
                best, least = change, value
            count += 1
            if count % OFFER_EVERY == 0:
                self.incumbents.offer_whole(best)
            self._evaluation_s = budget.control.elapsed - began
            return value, gradient.astype(np.float64).ravel()

        # Variables are changes by their paces; an entry without room stays at 0.
        half = ((self.problem.radius > 0) / pace).ravel()
        options: dict[str, Any] = {"maxiter": ITERATIONS, "maxcor": 20}
        with suppress(_Over):
            box = Bounds(-half, half)
            minimize(value_and_slope, (start / pace).ravel(), jac=True, method="L-BFGS-B", bounds=box, options=options)  # type: ignore[call-overload]
        self.incumbents.offer_whole(best)
