"""Newton's method in a box, for the last digits that a quasi-Newton descent does not reach."""

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from solver_service.milp.core.problem import Array

if TYPE_CHECKING:
    from solver_service.milp.final_layer.convex.program import ConvexProgram

MOST_WORK = 1e9
"""Multiplications that a Hessian may take; larger programs are left to the descent."""
ROUNDS = 60
HALVINGS = 8
RIDGES = (1e-13, 1e-9, 1e-6, 1e-3, 1.0)
"""What is added to the diagonal of the scaled Hessian."""
FLAT = 1e-12
"""Curvature by a score, as a share of the most that there can be, that a flat loss is given."""
SLOW = 0.9
"""A step that leaves more of the value than this share is not taken before one along flat losses has been tried."""
EDGE = 1e-12

Look = Callable[[Array], tuple[float, Array]]


def newton(program: "ConvexProgram", lower: Array, upper: Array, start: Array, look: Look) -> None:
    """Projected Newton steps (Bertsekas 1982): entries held at an edge by the gradient stay, all others step freely.

    `look` gives value and gradient at a change [h, c], keeps the best, and raises when there is nothing more to do.
    Where the loss is flat, as a log loss of samples that are right by far, its Hessian says nothing of where it rises
    again. There a step that hardly moves the scores goes further (Levenberg and Marquardt, in the scores).
    """
    problem = program.problem
    units, width = problem.radius.shape
    if program.loss.curvature is None:
        return
    blocks = units**2 if program.loss.coupled else units
    if len(problem.inputs) * width**2 * blocks + (units * width) ** 3 > MOST_WORK:
        return
    x, (value, gradient) = start, look(start)
    for _ in range(ROUNDS):
        free = _free(x, gradient, lower, upper)
        if not free.any():
            return
        chosen, steps = np.ix_(free.ravel(), free.ravel()), list[tuple[Array, float, Array]]()
        for more in (0.0, FLAT):
            if not steps or steps[0][1] > SLOW * value:
                hessian = _hessian(program, x, more)[chosen]
                moved = _lower(x, value, gradient, free, hessian, (lower, upper), look)
                steps += [] if moved is None else [moved]
        if not steps:
            return
        x, value, gradient = min(steps, key=itemgetter(1))


def _lower(
    x: Array, value: float, gradient: Array, free: Array, hessian: Array, box: tuple[Array, Array], look: Look
) -> tuple[Array, float, Array] | None:
    """The first point of a lower value on Newton's way; flat directions, which lead astray, are damped more."""
    for ridge in RIDGES:
        step = np.zeros(x.shape)
        step[free] = _solve(hessian, -gradient[free], ridge)
        for halving in range(HALVINGS):
            moved = np.clip(x + step * 0.5**halving, *box)
            found, slope = look(moved)
            if found < value:
                return moved, found, slope
    return None


def _free(x: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    held = ((x <= lower + EDGE) & (gradient > 0)) | ((x >= upper - EDGE) & (gradient < 0))
    return np.asarray(~held & (lower < upper))


def _hessian(program: "ConvexProgram", x: Array, more: float) -> Array:
    """The second derivatives by all entries of a change, [h c, h c]; block by block of units.

    To those by single scores a share `more` of the most that they can be is added.
    """
    problem, l2 = program.problem, program.l2
    units, width = problem.radius.shape
    assert program.loss.curvature is not None, "newton does not start without curvature"
    diagonal, coupling = program.loss.curvature(problem.scores_at(x))
    diagonal = diagonal + more * program.loss.most_curvature * program.cost[:, None]
    found = np.zeros((units, width, units, width))
    for k in range(units):
        own = problem.inputs * problem.radius[k]
        found[k, :, k] = own.T @ (diagonal[:, [k]] * own)
        for other in range(k + 1) if coupling is not None else ():
            pair = coupling[:, [k]] * coupling[:, [other]] if coupling is not None else 0.0
            block = (own * pair).T @ (problem.inputs * problem.radius[other])
            found[k, :, other] -= block
            if other < k:
                found[other, :, k] -= block.T
    flat = found.reshape(units * width, -1)
    if l2:
        weights = np.pad(problem.radius[:, :-1], ((0, 0), (0, 1))).ravel()
        flat[np.diag_indices_from(flat)] += 2 * l2 * weights**2
    return flat


def _solve(matrix: Array, wanted: Array, ridge: float) -> Array:
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scale[scale == 0] = 1.0
    scaled = matrix / scale[:, None] / scale
    scaled[np.diag_indices_from(scaled)] += ridge
    try:
        return np.asarray(np.linalg.solve(scaled, wanted / scale) / scale)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(scaled, wanted / scale, rcond=None)[0] / scale)
