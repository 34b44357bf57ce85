"""One descent inside the box: L-BFGS-B, or damped Gauss-Newton where that is cheaper, given up when it cannot win."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, minimize

from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.gauss_newton import gauss_newton, suits
from solver_service.milp.network.joint.many_variables import descend
from solver_service.milp.network.joint.sides import Sides

WINDOW = 12
"""Evaluations over which the pace of a descent is judged."""
LOOK = 25
"""Evaluations before which no descent is given up."""

MANY = 2_000
"""Variables beyond which SciPy takes longer for them, before and between evaluations, than evaluations do."""
SHOWN = (10, 40, 140)
"""Evaluations after which a descent that somebody waits for shows what it has come to."""


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended: variables [size], the stand-in's value there, and what it cost in evaluations."""

    variables: Array
    value: float
    work: float


class _EnoughError(Exception):
    """Ends SciPy's loop from inside its function."""


class Descender:
    """Descends an evaluator's stand-in; `over` says when the time is up."""

    def __init__(self, evaluate: Evaluator, over: Callable[[], bool]) -> None:
        self.evaluate, self.over = evaluate, over
        self._exact = evaluate.stand_in.squares and evaluate.prices is None and suits(evaluate)

    def __call__(
        self, begin: Array, *, effort: int, target: float = np.inf, show: Callable[[Descent], None] | None = None
    ) -> Descent:
        """Descend for about `effort` evaluations; given up where `target` is out of reach at the present pace.

        `show` is given what a long descent has come to now and then.
        """
        if self._exact:
            return self._gauss_newton(begin, effort, target)
        return self._lbfgs(begin, effort, target, show)

    @property
    def exact(self) -> bool:
        """Whether descents are damped Gauss-Newton's."""
        return self._exact

    def _gauss_newton(self, begin: Array, effort: int, target: float) -> Descent:
        rounds = max(6, effort // 10)
        found = gauss_newton(self.evaluate, begin, rounds=rounds, gain=1e-4, target=target, over=self.over)
        return Descent(found.variables, found.value, 5.0 * found.rounds)

    def _lbfgs(self, begin: Array, effort: int, target: float, show: Callable[[Descent], None] | None) -> Descent:
        space = self.evaluate if self.evaluate.prices is None else Sides(self.evaluate)
        seen = _Best(self, space, effort, target, show)
        begin = np.clip(begin, self.evaluate.lower, self.evaluate.upper)
        point = space.apart(begin) if isinstance(space, Sides) else begin
        with suppress(_EnoughError):
            if point.size > MANY:
                descend(seen, point, space.lower, space.upper, steps=effort)
                return seen.descent
            minimize(
                seen,
                point,
                jac=True,
                method="L-BFGS-B",
                bounds=Bounds(space.lower, space.upper),
                options={"maxiter": effort, "maxfun": 2 * effort, "ftol": 1e-11, "gtol": 1e-10, "maxcor": 12},
            )
        return seen.descent


class _Best:
    """Keeps the best point that SciPy asked for, also of two sides, and ends the descent when it has to end."""

    def __init__(
        self,
        descender: Descender,
        space: Evaluator | Sides,
        effort: int,
        target: float,
        show: Callable[[Descent], None] | None,
    ) -> None:
        self._space, self._over, self._show = space, descender.over, show
        self._effort, self._target = effort, target
        self.variables, self.value, self.calls = np.zeros(0), np.inf, 0
        self._unit = 1.0
        self._past: list[float] = []

    @property
    def descent(self) -> Descent:
        """The best point so far, and what it cost."""
        together = self._space.together if isinstance(self._space, Sides) else np.copy
        return Descent(together(self.variables), self.value, self.calls)

    def __call__(self, variables: Array) -> tuple[float, Array]:
        if self._over() or self._hopeless():
            if self.calls == 0:
                self.variables = variables.copy()
            raise _EnoughError
        value, gradient = self._space(variables)
        if self.calls == 0 and value > 0:
            self._unit = value  # SciPy's tolerances are absolute below 1
        self.calls += 1
        if value < self.value or self.calls == 1:
            self.value, self.variables = value, variables.copy()
        self._past.append(self.value)
        if self._show is not None and self.calls in SHOWN:
            self._show(self.descent)
        return value / self._unit, gradient / self._unit

    def _hopeless(self) -> bool:
        """True when even the pace of the last evaluations, kept up to the end, would miss the target."""
        if self.calls < LOOK or self.value <= self._target:
            return False
        pace = (self._past[-WINDOW] - self.value) / WINDOW
        return self.value - pace * max(WINDOW, self._effort - self.calls) > self._target
