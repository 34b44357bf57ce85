"""Bounds from dual values, proven in plain float64 whatever the rounding inside the solver that found them."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array


def lagrangian_bound(
    cost: Array, matrix: sp.csr_array, duals: Array, *, row_lower: Array, lower: Array, upper: Array
) -> float:
    """A lower limit of `min cost . x, matrix x >= row_lower, lower <= x <= upper`, from any duals [rows].

    It is the Lagrangian's minimum over the (finite) column bounds, with negative duals taken as 0 (Neumaier and
    Shcherbina, 2004).
    """
    # c . x >= c . x - y+ . (F x - L) = y+ . L + r . x with r = c - F^T y+
    # (docs/formulations/bounds.md, "Safe bounds from duals").
    price = np.maximum(duals, 0.0)
    reduced = cost - matrix.T @ price
    # r . x is least at one end of each column.
    return float(price @ row_lower + np.minimum(reduced * lower, reduced * upper).sum())
