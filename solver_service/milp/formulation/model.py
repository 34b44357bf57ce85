"""A mixed-integer linear model that belongs to no solver."""

from dataclasses import dataclass, replace

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

    def only(self, rows: Index) -> "LinearModel":
        """The model with some of its rows."""
        return replace(
            self,
            matrix=sp.csr_array(self.matrix[rows]),
            row_lower=self.row_lower[rows],
            row_upper=self.row_upper[rows],
            indicator=self.indicator[rows],
            leading=None if self.leading is None else self.leading[rows],
        )


@dataclass(frozen=True, eq=False)
class Extension:
    """What constraints add to a compact model: `model` has all columns and their rows alone.

    `sample` [columns] is whose a column is, where it is one sample's and not one of the compact model's own; -1 else.
    """

    model: LinearModel
    sample: Index


def stack(matrix: sp.csr_array, more: sp.csr_array) -> sp.csr_array:
    """One matrix below the other."""
    return sp.csr_array(sp.vstack([matrix, more], format="csr"))


def widened(matrix: sp.csr_array, columns: int) -> sp.csr_array:
    """The same rows over more columns."""
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def always(rows: int) -> Index:
    """Indicators of rows that always hold."""
    return np.full(rows, -1, dtype=np.int64)
