"""The rows of a relaxation as arrays, with what each of them is."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.formulation.model import stack

REQUIREMENT, CUT, CONSTRAINT, GIVEN = 0, 1, 2, 3
"""What a row is: a requirement, a cut, one of the job's constraints, or one that was handed in."""
NOBODY = -1


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows `matrix x >= lower` of a relaxation: what each is, and its number among its kind [r]."""

    matrix: sp.csr_array
    lower: Array
    kind: Index
    number: Index

    @property
    def size(self) -> int:
        """How many rows there are."""
        return int(self.lower.size)

    def select(self, rows: Mask | Index) -> "Rows":
        """Some of the rows."""
        return Rows(sp.csr_array(self.matrix[rows]), self.lower[rows], self.kind[rows], self.number[rows])

    def plus(self, more: "Rows") -> "Rows":
        """These rows, and more behind them."""
        return Rows(
            stack(self.matrix, more.matrix),
            np.concatenate([self.lower, more.lower]),
            np.concatenate([self.kind, more.kind]),
            np.concatenate([self.number, more.number]),
        )


def no_rows(columns: int) -> Rows:
    """None, over so many columns."""
    none = np.zeros(0, dtype=np.int64)
    return Rows(sp.csr_array((0, columns)), np.zeros(0), none, none)


def ends(matrix: sp.csr_array, owner: Index) -> tuple[Index, Index]:
    """The least and the greatest owner [r] among each row's columns, of which the change's are NOBODY's.

    A row that touches the change alone is NOBODY's on both ends.
    """
    # Each entry's row, and the owner of its column: [nonzeros].
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    found = owner[matrix.indices]
    owned = found != NOBODY
    # Beyond every owner on either side, so that rows without any show.
    least, most = np.full(matrix.shape[0], owner.size), np.full(matrix.shape[0], NOBODY)
    np.minimum.at(least, row[owned], found[owned])
    np.maximum.at(most, row[owned], found[owned])
    return np.where(most == NOBODY, NOBODY, least), most
