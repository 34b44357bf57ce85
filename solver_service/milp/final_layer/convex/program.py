"""mse, huber and log_loss in a box: a quasi-Newton descent, Newton's method to the end, and a bound of their own.

f is convex, so at any x of the box  f(x) + min over the box of grad f(x) . (y - x)  is below f(y) for every y there
(docs/formulations/convex.md, "Convex objectives"). The best of these over all points that were looked at is the bound.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.optimize import Bounds, minimize

from shared.constraints import movement_prices
from solver_service.milp.core.problem import Array, Index, Problem
from solver_service.milp.final_layer.convex.newton import newton
from solver_service.milp.final_layer.convex.smooth_losses import SmoothLoss, smooth_loss

CLOSE = 1e-7
"""The relative gap at which a program counts as solved."""
ROUNDING = 1e-13
"""What summing up a bound may lose, per unit of its largest part."""
ITERATIONS = 20_000
CORRECTIONS = 20
SIDES = 10
"""How often Newton's method is told anew on which side of where movement is free each entry is."""


class _Done(Exception):  # noqa: N818 (an end, not an error)
    """Raised inside an objective callback to end a descent: solved, or no time is left."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """The best change [h, c] that was found in a box, its value, and a proven lower limit of all values there."""

    change: Array
    value: float
    bound: float

    @property
    def solved(self) -> bool:
        """Whether the gap is closed."""
        return self.value - self.bound <= CLOSE * self.value


class ConvexProgram:
    """The objective of a problem (with its l2), and what movement costs, as functions of a change [h, c].

    `cost` [n] replaces the problem's, for programs over some of the samples, and `loss` the objective's own.
    """

    def __init__(self, problem: Problem, cost: Array | None = None, loss: SmoothLoss | None = None) -> None:
        self.problem = problem
        self.cost = problem.cost if cost is None else cost
        self.loss = loss or smooth_loss(problem, self.cost)
        self._movable = problem.radius.copy()
        self._movable[:, -1] = 0.0  # the bias, of which neither l2 nor a price of movement speaks
        self.l2 = problem.objective.l2
        prices = movement_prices(problem.constraints, problem.snapshot.weight.shape)
        self.prices = self._movable * np.pad(prices, ((0, 0), (0, 1)))
        own = np.pad(problem.snapshot.weight.astype(np.float64), ((0, 0), (0, 1))) - problem.center
        self._own = np.divide(own, self._movable, out=np.zeros_like(own), where=self._movable > 0)
        self._outside = np.where(self._movable > 0, 0.0, np.abs(own)) * np.pad(prices, ((0, 0), (0, 1)))

    @property
    def box(self) -> tuple[Array, Array]:
        """The lowest and the highest change [h, c]; what cannot move stays at 0."""
        half = (self.problem.radius > 0).astype(np.float64)
        return -half, half

    def smooth(self, change: Array) -> tuple[float, Array]:
        """Value and gradient [h, c] without what movement costs."""
        problem = self.problem
        value, slope = self.loss.value_and_slope(problem.scores_at(change))
        gradient = problem.radius * (slope.T @ problem.inputs)
        if self.l2:
            weight = (problem.center + problem.radius * change)[:, :-1]
            value += self.l2 * float((weight**2).sum())
            gradient[:, :-1] += 2 * self.l2 * weight * problem.radius[:, :-1]
        return value, gradient

    def steepness(self) -> Array:
        """The largest second derivative by each entry of a change [h, c]."""
        # Summed without a copy of all squares: the inputs may be most of the memory.
        squares = np.einsum("n,nc,nc->c", self.cost, self.problem.inputs, self.problem.inputs)
        square = self.loss.most_curvature * squares
        return np.asarray(self.problem.radius**2 * square + 2 * self.l2 * self._movable**2)

    def of_columns(self, columns: Index, silent: Array) -> Self:
        """The same over some columns [w], weights of all others at 0; `silent` [n, h] are the scores of nothing."""
        problem, found = self.problem, copy(self)
        inputs, center = problem.inputs[:, columns], problem.center[:, columns]
        found.problem = replace(
            problem, inputs=inputs, scores=silent + inputs @ center.T, radius=problem.radius[:, columns], center=center
        )
        found.prices, found._movable = self.prices[:, columns], self._movable[:, columns]
        found._own, found._outside = self._own[:, columns], self._outside[:, columns]
        return found

    def minimise(
        self, lower: Array, upper: Array, start: Array, over: Callable[[], bool], close: float = CLOSE
    ) -> Minimum:
        """The least value between lower and upper [h, c], to a relative gap, as far as there is time."""
        return _Descent(self, lower, upper, over, close).run(start)

    def split(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Where movement is free in a box [h, c], and what it costs there."""
        base = np.clip(self._own, lower, upper)
        return base, self.prices * np.abs(base - self._own) + self._outside


class _Descent:
    """One run: the variables are the steps up from a base [h, c] and, where movement has a price, the steps down.

    Both are scaled by the root of the steepness, so that no direction is much steeper than another, and the objective
    by its value at the start.
    """

    def __init__(
        self, program: ConvexProgram, lower: Array, upper: Array, over: Callable[[], bool], close: float
    ) -> None:
        self.program, self.lower, self.upper, self.over, self.close = program, lower, upper, over, close
        self.priced = program.prices > 0
        base, paid = program.split(lower, upper)
        self.base = np.where(self.priced, base, 0.0)
        self.paid = float(paid.sum())
        steep = np.sqrt(program.steepness())
        self.scale = np.where(steep > 0, steep, 1.0) / (float(steep.max()) or 1.0)
        self.best = np.clip(base, lower, upper)
        self.value, self.bound = np.inf, 0.0
        self.unit = 1.0

    def run(self, start: Array) -> Minimum:
        x = np.clip(start, self.lower, self.upper)
        try:
            self.look(x)
            self.unit = self.value or 1.0
            minimize(
                self._call,
                self._variables(x),
                jac=True,
                method="L-BFGS-B",
                bounds=self._bounds(),
                options={"maxiter": ITERATIONS, "maxfun": ITERATIONS, "ftol": 0.0, "gtol": 0.0, "maxcor": CORRECTIONS},
            )
            for _ in range(SIDES if self.priced.any() else 1):
                self._newton()
        except _Done:
            pass
        return Minimum(self.best, self.value, self.bound)

    def _newton(self) -> None:
        """Newton's method where every priced entry stays on its side of the base, so that its price is linear.

        One that sits on the base leaves it only to a side where the slope outweighs the price.
        """
        prices, x = self.program.prices, self.best
        gradient = self.look(x)[1]
        up = self.priced & ((x > self.base) | ((x == self.base) & (gradient < -prices)))
        down = self.priced & ((x < self.base) | ((x == self.base) & (gradient > prices)))
        sides = prices * (up.astype(np.float64) - down)
        lower = np.where(self.priced & ~down, self.base, self.lower)
        upper = np.where(self.priced & ~up, self.base, self.upper)

        def look(y: Array) -> tuple[float, Array]:
            value, slope = self.look(y)
            return value, slope + sides

        newton(self.program, lower, upper, x, look)

    def look(self, x: Array) -> tuple[float, Array]:
        """Value and smooth gradient at a change; keeps the best of both, and ends the run when it is done."""
        value, gradient = self.program.smooth(x)
        moved = np.abs(x - self.base)
        value += self.paid + float((self.program.prices * moved).sum())
        if value < self.value:
            self.best, self.value = x.copy(), value
        self.bound = max(self.bound, self._below(x, value, gradient))
        if self.value - self.bound <= self.close * self.value or self.over():
            raise _Done
        return value, gradient

    def _below(self, x: Array, value: float, gradient: Array) -> float:
        """The least value of the linearisation in the box; what movement costs is linear on either side of the base."""
        down, up = self.lower - x, self.upper - x
        if self.priced.any():
            prices, moved = self.program.prices, np.abs(x - self.base)
            ends = [
                gradient * (end - x) + prices * (np.abs(end - self.base) - moved)
                for end in (self.lower, self.upper, np.where(self.priced, self.base, x))
            ]
            least = np.minimum.reduce(ends)
        else:
            least = np.minimum(gradient * down, gradient * up)
        lost = ROUNDING * (abs(value) + float(np.abs(least).sum()))
        return value + float(least.sum()) - lost

    def _variables(self, x: Array) -> Array:
        """The scaled variables of a change: free entries, then steps up and steps down of the priced ones."""
        moved = (x - self.base) * self.scale
        priced = moved[self.priced]
        return np.concatenate([moved[~self.priced], np.maximum(priced, 0.0), np.maximum(-priced, 0.0)])

    def _bounds(self) -> Bounds:
        low, high = (self.lower - self.base) * self.scale, (self.upper - self.base) * self.scale
        still = np.zeros(int(self.priced.sum()))
        return Bounds(
            np.concatenate([low[~self.priced], still, still]),
            np.concatenate([high[~self.priced], high[self.priced], -low[self.priced]]),
        )

    def _call(self, variables: Array) -> tuple[float, Array]:
        free, count = int((~self.priced).sum()), int(self.priced.sum())
        x = self.base.copy()
        x[~self.priced] += variables[:free] / self.scale[~self.priced]
        x[self.priced] += (variables[free : free + count] - variables[free + count :]) / self.scale[self.priced]
        value, gradient = self.look(np.clip(x, self.lower, self.upper))
        price = self.program.prices[self.priced]
        parts = [gradient[~self.priced], gradient[self.priced] + price, -gradient[self.priced] + price]
        scales = [self.scale[~self.priced], self.scale[self.priced], self.scale[self.priced]]
        return value / self.unit, np.concatenate(parts) / np.concatenate(scales) / self.unit
