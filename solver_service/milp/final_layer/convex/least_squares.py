"""mse jobs: a convex problem per unit, solved exactly, with a bound that needs nobody's word."""

import numpy as np
from scipy.optimize import lsq_linear

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Problem


def solve_least_squares(problem: Problem, budget: Budget) -> tuple[Array, float]:
    """The change [h, d+1] of least weighted squares in the box, and a proven lower limit of the objective.

    A thin QR per unit comes first (the Gram matrix would square the condition number). Units that the budget leaves
    no time for stay as they are, with the bound 0.
    """
    change = np.zeros_like(problem.radius)
    residuals = problem.targets.astype(np.float64) - problem.scores
    root = np.sqrt(problem.cost)[:, None]
    bound = 0.0
    for unit in range(problem.units):
        if budget.over:
            break
        matrix = root * problem.inputs * problem.radius[unit]
        change[unit], limit = _solve_unit(matrix, (root * residuals)[:, unit])
        bound += limit
    return change, bound


def _solve_unit(matrix: Array, wanted: Array) -> tuple[Array, float]:
    """min |matrix x - wanted|^2 for x in [-1, 1], and a lower limit of it."""
    used = np.flatnonzero(np.abs(matrix).max(axis=0) > 0)
    x = np.zeros(matrix.shape[1])
    if used.size:
        q, r = np.linalg.qr(matrix[:, used])
        scale = float(np.abs(r).max())
        found = lsq_linear(r / scale, q.T @ wanted / scale, bounds=(-1.0, 1.0), tol=1e-12)
        x[used] = np.clip(found.x, -1.0, 1.0)
    return x, _convex_bound(matrix, wanted, x)


def _convex_bound(matrix: Array, wanted: Array, x: Array) -> float:
    """f is convex, so f(x) - (grad . x + |grad|_1) is below it everywhere in the box."""
    error = matrix @ x - wanted
    gradient = 2 * matrix.T @ error
    return max(0.0, float(error @ error - (gradient @ x + np.abs(gradient).sum())))
