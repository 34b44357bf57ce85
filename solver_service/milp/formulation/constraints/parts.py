"""Pieces that a model grows by: more columns, more rows, and how a solution extends to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.formulation.model import LinearModel, always, widened


def _nowhere() -> Array:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows `matrix x >= lower` over all columns of a model.

    A *strict* row separates right from wrong samples: it holds with room to spare only if it holds in float32, too.
    `strict` is what a unit of that room is in the row (0: none), `switch` the binary that turns it on at the value
    `on`. Rows that are `tying` hold by themselves once the weights that integer columns decide are pinned to them.
    """

    matrix: sp.csr_array
    lower: Array
    strict: Array
    switch: Index
    on: Array
    tying: Mask


@dataclass(frozen=True, eq=False)
class Part:
    """New columns, rows over them and the older ones, and the values of the new columns at a change [h, d+1].

    `sample` is whose columns they are, where they are a single sample's (empty: nobody's).
    """

    rows: Rows
    complete: Callable[[Array], Array] = field(default=lambda _: _nowhere())
    objective: Array = field(default_factory=_nowhere)
    lower: Array = field(default_factory=_nowhere)
    upper: Array = field(default_factory=_nowhere)
    integer: bool = False
    constant: float = 0.0
    sample: Index = field(default_factory=lambda: always(0))

    @property
    def samples(self) -> Index:
        """The sample of every new column, -1 for none."""
        return self.sample if self.sample.size else always(self.lower.size)


def plain_rows(matrix: sp.csr_array, lower: Array, *, tying: bool = False) -> Rows:
    """Rows that are not strict."""
    count = lower.size
    return Rows(matrix, lower, np.zeros(count), always(count), np.zeros(count), np.full(count, tying))


def sparse(rows: int, columns: int, *entries: tuple[Array, Index, Index]) -> sp.csr_array:
    """A matrix from (values, rows, columns)."""
    values, row, column = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return sp.csr_array((values, (row, column)), shape=(rows, columns))


def grow(model: LinearModel, parts: Sequence[Part]) -> LinearModel:
    """The model with all parts in it; its solutions are handed out whole, for the integer columns' sake."""
    columns = model.columns + sum(part.lower.size for part in parts)
    rows = [part.rows for part in parts]
    # Columns are numbered from left to right, so older rows are only padded with zeros.
    matrices = [model.matrix, *(row.matrix for row in rows)]
    row_lower = np.concatenate([model.row_lower, *(row.lower for row in rows)])
    integer = [np.full(part.lower.size, part.integer) for part in parts]
    return replace(
        model,
        objective=np.concatenate([model.objective, *(part.objective for part in parts)]),
        constant=model.constant + sum(part.constant for part in parts),
        matrix=sp.csr_array(sp.vstack([widened(matrix, columns) for matrix in matrices], format="csr")),
        row_lower=row_lower,
        # The compact model has lower sides only, and so have all parts.
        row_upper=np.full(row_lower.size, np.inf),
        lower=np.concatenate([model.lower, *(part.lower for part in parts)]),
        upper=np.concatenate([model.upper, *(part.upper for part in parts)]),
        integer=np.concatenate([model.integer, *integer]),
        change_columns=columns,
        indicator=always(row_lower.size),
    )
