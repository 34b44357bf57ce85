"""Levenberg-Marquardt inside a box: a few exact steps where L-BFGS needs hundreds, for squares of a small network."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from shared.objectives import sample_weights
from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint.evaluator import Evaluator

LOOK = 4
"""Rounds over which the pace of a descent is judged."""
HOPE = 0.6
"""The pace slackens: what is left of a descent is believed to gain so much of what it would at the last pace."""
LARGEST = 1_000_000
"""More entries in the Jacobian than this cost more than L-BFGS does."""
ROWS_PER_VARIABLE, LEAST_ROWS = 3, 450
"""So many errors for each variable tell the curvature well enough, and fewer in all do not."""
MOST_VARIABLES = 200
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-6, 1e8


def suits(evaluate: Evaluator) -> bool:
    """Whether the normal equations are small enough to be solved again and again."""
    outputs, size = evaluate.network.snapshot.outputs, evaluate.scaling.size
    return (
        size <= MOST_VARIABLES
        and min(outputs * evaluate.samples, 2 * max(LEAST_ROWS, ROWS_PER_VARIABLE * size)) * size <= LARGEST
    )


@dataclass(frozen=True, eq=False)
class Found:
    """Where it ended: variables [size], the value there, and the rounds it took."""

    variables: Array
    value: float
    rounds: int


def gauss_newton(
    evaluate: Evaluator, begin: Array, *, rounds: int, gain: float, target: float, over: Callable[[], bool]
) -> Found:
    """Descend from variables [size] by damped Gauss-Newton steps.

    Variables at a side of the box that the gradient pushes against stay there (a projected method after Kanzow,
    Yamashita and Fukushima, 2004). Ends when rounds gain less than the part `gain`, or when `target` is out of reach
    even if every round left gained as much as the last ones.
    """
    least = _Squares(evaluate)
    variables, damping, number = begin, FIRST_DAMPING, 0
    past = [evaluate.value(begin)]
    while number < rounds and not over():
        tried, damping = _improve(evaluate, variables, past[-1], least(variables), damping, over)
        if tried is None:
            break
        number, variables = number + 1, tried[0]
        past.append(tried[1])
        if number >= LOOK:
            pace = (past[-1 - LOOK] - past[-1]) / LOOK
            if pace < gain * past[-1] or past[-1] - HOPE * pace * (rounds - number) > target:
                break
    return Found(variables, past[-1], number + 1)


def _improve(
    evaluate: Evaluator,
    variables: Array,
    value: float,
    model: tuple[Array, Array],
    damping: float,
    over: Callable[[], bool],
) -> tuple[tuple[Array, float] | None, float]:
    """The first step that improves, damped more and more: (variables and value, damping for the next round)."""
    while damping < MOST_DAMPING and not over():
        tried = _step(evaluate, variables, *model, damping)
        reached = evaluate.value(tried)
        if reached < value:
            return (tried, reached), max(LEAST_DAMPING, damping / 5)
        damping *= 4
    return None, damping


class _Squares:
    """Gradient [size] and Gauss-Newton curvature [size, size] of weighted squares.

    With many samples the curvature is that of every s-th of them, another lot each time (subsampled Newton, Byrd et
    al., 2011); gradient and value are always those of all.
    """

    def __init__(self, evaluate: Evaluator) -> None:
        snapshot = evaluate.network.snapshot
        outputs = evaluate.samples * snapshot.outputs
        self._evaluate, self._calls = evaluate, 0
        stride = max(1, outputs // max(LEAST_ROWS, ROWS_PER_VARIABLE * evaluate.scaling.size))
        self._lots = [
            evaluate.part(np.arange(first, evaluate.samples, stride), evaluate.scaling.dtype) for first in range(stride)
        ]
        weights = sample_weights(snapshot)
        self._root = np.sqrt(weights * (stride / (weights.sum() * snapshot.outputs))).astype(evaluate.scaling.dtype)

    def __call__(self, variables: Array) -> tuple[Array, Array]:
        gradient = self._evaluate(variables)[1]
        number = self._calls % len(self._lots)
        self._calls += 1
        jacobian = self._lots[number].jacobian(variables, self._root[number :: len(self._lots)])
        rows = jacobian.transpose(1, 0, 2).reshape(jacobian.shape[1], -1)
        scaling = self._evaluate.scaling
        free, unit = scaling.free, scaling.unit
        curvature = rows @ rows.T
        if free.size < len(curvature):
            curvature = curvature[np.ix_(free, free)]
        # The square's own factor of 2; `unit` turns derivatives by weights into those by variables.
        return gradient, 2.0 * unit[:, None] * curvature * unit


def _step(evaluate: Evaluator, variables: Array, gradient: Array, curvature: Array, damping: float) -> Array:
    lower, upper = evaluate.lower, evaluate.upper
    free = np.flatnonzero(~(((variables <= lower) & (gradient > 0)) | ((variables >= upper) & (gradient < 0))))
    moved = variables.copy()
    if free.size == 0:
        return moved
    part = curvature if free.size == len(curvature) else curvature[np.ix_(free, free)]
    diagonal = part.diagonal()
    if not diagonal.max() > 0:
        return variables
    damped = part.copy()
    # Marquardt's scaling, with a floor: a dead unit's columns are zero.
    damped.flat[:: len(part) + 1] += damping * (diagonal + 1e-3 * diagonal.mean())
    try:
        moved[free] -= cho_solve(
            cho_factor(damped, overwrite_a=True, check_finite=False), gradient[free], check_finite=False
        )
    except LinAlgError:
        return variables
    return np.clip(moved, lower, upper)
