"""A mixed-integer linear model that belongs to no solver."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Index, Mask


@dataclass(frozen=True, eq=False)
class LinearModel:
    """min constant + objective . x, rows `row_lower <= matrix x <= row_upper`, `lower <= x <= upper`, some x integer.

    `indicator[r]` is the binary column that switches row r on (the row then has an upper side only), or -1 where the
    row always holds. The first columns are the entries of a change [h, d+1]; as many as `change_columns` are handed out
    of every solution.
    `leading[r]` says that row r belongs into a solver's first LP; the others wait until a solution breaks them (None:
    all lead).
    """

    # Over columns [c]: objective, lower, upper, integer. Over rows [r]: sides, indicator, leading. Matrix [r, c].
    objective: Array
    constant: float
    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: Mask
    change_columns: int
    indicator: Index
    leading: Mask | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.matrix.shape[0])

    @property
    def columns(self) -> int:
        """How many columns there are."""
        return int(self.objective.size)


def stack(matrix: sp.csr_array, more: sp.csr_array) -> sp.csr_array:
    """One matrix below the other."""
    return sp.csr_array(sp.vstack([matrix, more], format="csr"))


def always(rows: int) -> Index:
    """Indicators of rows that always hold."""
    return np.full(rows, -1, dtype=np.int64)
