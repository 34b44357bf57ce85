"""Descents on all samples at once where shares of samples count: worst rates, and objectives under floors and gaps."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, minimize

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision, Singles
from solver_service.milp.heuristics.descents.smoothed_shares import SmoothedShares
from solver_service.milp.heuristics.descents.weight_prices import WeightPrices
from solver_service.milp.heuristics.walks.mending import offer_mended
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

STAGES = ((1.0, 0.03), (0.3, 0.03), (0.1, 0.03), (0.03, 0.01), (0.03, 0.003), (0.01, 0.001))
"""How far every count is smoothed, in units of the block's outputs, and how far the largest rate is rounded off; each
begins where the one before ended."""
CORRECTED = 3
"""From this stage on smoothed counts are shifted by what they are off where the stage begins."""
ITERATIONS = 60
LONGEST_S = 1.0
"""Of one width, at most."""
FIRST_PRICE, DEARER, CHEAPER = 3.0, 2.0, 0.8
"""The price of a share that lacks 1, in units of the objective; what it is times after a run that lacks, or keeps."""
PRICES = (0.3, 300.0)
KICK, FEW, ANEW = 0.3, 0.3, 0.3
"""How far a later run begins from the best, which part of the entries moves, and how often it begins anywhere."""
ROUNDED = 0.01
"""How far the kink of what movement costs is rounded off, in radii, for each unit of the width."""


class _Over(Exception):  # noqa: N818 (an end, not an error)
    """Raised inside a callback to end a descent."""


@dataclass(eq=False)
class ShareDescents:
    """A strategy: each `advance` is one run of L-BFGS-B (Byrd et al. 1995) at one width, the next one at a narrower.

    The first begins at the incumbent, later ones from kicks or from anywhere in the box.
    """

    problem: Problem
    tally: Tally
    block: SinglePrecision
    incumbents: Incumbents
    walk: Walk
    rng: np.random.Generator
    reproducible: bool
    _runs: int = 0
    _stage: int = 0
    _price: float = FIRST_PRICE
    _change: Array | None = None

    def __post_init__(self) -> None:
        self._shares = SmoothedShares.of(self.problem, self.tally, self.block.unit, self.block.scores)
        self._paid = WeightPrices.of(self.problem, self._shares.per_value)

    def advance(self, budget: Budget) -> bool:
        """Descend at one width, and offer the end with its constraints mended."""
        if self._change is None:
            self._change = self._start()
        (width, sharp), last = STAGES[self._stage], self._stage == len(STAGES) - 1
        shares = self._shares
        if self._stage >= CORRECTED:
            shares = shares.corrected(self._outputs(self._change), width, sharp)
        self._change = self._descend(shares, self._change, width, budget)
        kept = self._offer(self._change, budget)
        self._stage += 1
        if last:
            self._price = float(np.clip(self._price * (CHEAPER if kept else DEARER), *PRICES))
            self._runs, self._change = self._runs + 1, None
        return True

    def _start(self) -> Array:
        """Where a run begins, and at which stage: a wide one would forget where a kick led."""
        best, shape = self.incumbents.whole_change, self.problem.radius.shape
        self._stage = 0
        if not self._runs:
            return best
        if self.rng.random() < ANEW:
            return self.problem.pace * self.rng.uniform(-1.0, 1.0, shape)
        self._stage = int(self.rng.integers(CORRECTED + 1))
        kick = KICK * self.problem.pace * self.rng.normal(size=shape) * (self.rng.random(shape) < FEW)
        return np.clip(best + kick, -1.0, 1.0)

    def _descend(self, shares: SmoothedShares, start: Array, width: float, budget: Budget) -> Array:
        """Where a run at some width ends, [h, c]."""
        best, least, pace = start, np.inf, self.problem.pace
        until = min(budget.until, budget.control.elapsed + LONGEST_S)

        def value_and_slope(flat: Array) -> tuple[float, Array]:
            nonlocal best, least
            if np.isfinite(least) and (budget.over or (not self.reproducible and budget.control.elapsed > until)):
                raise _Over
            change = pace * flat.reshape(start.shape)
            value, slope = shares(self._outputs(change), width, self._price)
            # [h, n] @ [n, c], by the change through the reach [h, c].
            gradient = (self.block.reach * (slope.T @ self.block.inputs)).astype(np.float64)
            paid, steep = self._paid(change, ROUNDED * width)
            value, gradient = value + paid, gradient + steep
            if value < least:
                best, least = change, value
            return value, (pace * gradient).ravel()

        # Variables are changes by their paces; an entry without room stays at 0.
        half = ((self.problem.radius > 0) / pace).ravel()
        options: dict[str, Any] = {"maxiter": ITERATIONS, "maxcor": 20}
        with suppress(_Over):
            minimize(  # type: ignore[call-overload]
                value_and_slope,
                np.clip((start / pace).ravel(), -half, half),
                jac=True,
                method="L-BFGS-B",
                bounds=Bounds(-half, half),
                options=options,
            )
        return best

    def _outputs(self, change: Array) -> Singles:
        """Scores [n, h] after a change [h, c], in the block's units."""
        return np.asarray(self.block.outputs(change.astype(np.float32)[None])[:, 0, :])

    def _offer(self, change: Array, budget: Budget) -> bool:
        """Offer where a run is; whether that keeps what is asked of shares before anything is mended."""
        if not self.tally.asks:
            self.incumbents.offer_whole(change)
            return True
        return offer_mended(change, self.walk, self.incumbents, budget)
