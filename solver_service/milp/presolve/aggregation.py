"""Columns that models need not tell apart become one: exact while only the scores matter, not single weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from solver_service.milp.core.problem import Array, Index, Space
from solver_service.milp.core.requirements import NO_UNIT, Requirements
from solver_service.milp.presolve.screening import Screened

DROPPED = -1
AT_ONCE = 64
"""Columns whose directions are compared at a time, to bound the memory that it takes."""


@dataclass(frozen=True, eq=False)
class Aggregation:
    """A smaller space whose changes [h', c'] stand for those of the whole one [h, c].

    Why that is exact: docs/formulations/reductions.md, "Aggregation of columns".

    Entry (i, j) of a whole change is `unit_sign[i] column_sign[j]` times entry `(unit[i], column[j])` of the folded
    one, or 0 where the column is dropped. `share` [h, c] is what it adds to the half-width of that entry.
    """

    space: Space
    unit: Index
    unit_sign: Array
    column: Index
    column_sign: Array
    share: Array

    def lift(self, change: Array) -> Array:
        """The whole change [h, c] that a folded one [h', c'] stands for."""
        # A dropped column has the number -1 and so finds the zeros behind the last one.
        padded = np.hstack([change, np.zeros((len(change), 1))])
        return np.asarray(self._sign * padded[self.unit][:, self.column])

    def lower(self, change: Array) -> Array:
        """The folded change [h', c'] that moves every score as a whole one [h, c] does."""
        # x' = (sum over what folds into it of sign R |a| x) / R', the change that moves all scores alike.
        moved = _gathered(self._sign * self.share * change, self.unit, self.column, self.space.radius.shape)
        return moved / np.where(self.space.radius > 0, self.space.radius, 1.0)

    @property
    def kept(self) -> int:
        """c', the inputs that stay."""
        return int(self.space.radius.shape[1])

    @property
    def zero_columns(self) -> int:
        """Columns that nothing depends on."""
        return self.unit.size * int((self.column == DROPPED).sum())

    @property
    def merged_columns(self) -> int:
        """Columns that were proportional to another one."""
        return self.unit.size * (self.column.size - self.kept) - self.zero_columns

    @property
    def halved_columns(self) -> int:
        """Columns of the unit that two classes do not need."""
        return (self.unit.size - self.space.units) * self.kept

    @property
    def _sign(self) -> Array:
        return np.outer(self.unit_sign, self.column_sign)


def not_aggregated(space: Space) -> Aggregation:
    """Every column as it is."""
    units, columns = space.radius.shape
    return Aggregation(space, np.arange(units), np.ones(units), np.arange(columns), np.ones(columns), space.radius)


def fold(space: Space, screened: Screened) -> tuple[Screened, Aggregation]:
    """Keep the samples that are left, drop and merge inputs, and merge two classes; levels and reaches stay.

    Dropped are inputs that are 0 on every sample left or that no unit may move. Of proportional ones `g_j = a_j g` one
    stays, with the half-widths `sum_j |a_j| R_ij`; a constant one is proportional to that of the bias. Of two classes
    only the difference `D_1 - D_0` matters, with the half-widths `R_0j + R_1j`.
    """
    samples, sample = np.unique(screened.requirements.sample, return_inverse=True)
    column, ratio, kept = _columns(space, samples)
    unit, unit_sign = _units(space, screened.requirements)
    # R_ij |a_j| [h, c]: what each column adds to R', 0 where it is dropped.
    share = space.radius * np.abs(ratio)
    folded = Space(
        inputs=space.inputs[np.ix_(samples, kept)],
        radius=_gathered(share, unit, column, (int(unit.max()) + 1, kept.size)),
    )
    requirements = replace(screened.requirements, sample=sample.astype(np.int64))
    if folded.units < space.units:
        requirements = _of_difference(requirements)
    folding = Aggregation(folded, unit, unit_sign, column, np.sign(ratio), share)
    return replace(screened, requirements=requirements), folding


def _columns(space: Space, samples: Index) -> tuple[Index, Array, Index]:
    """Each input's folded column (or DROPPED), its ratio to the input that stays (0: dropped), and those that stay."""
    column = np.full(space.radius.shape[1], DROPPED)
    ratio = np.zeros(column.size)
    first: dict[bytes, tuple[int, float]] = {}
    kept: list[int] = []
    movable = np.asarray(space.radius.any(axis=0))
    for place, direction, scale in _directions(space.inputs, samples):
        # All 0 on these samples, or in a box of width 0: no score depends on it.
        if scale == 0 or not movable[place]:
            continue
        if direction not in first:
            first[direction] = (len(kept), scale)
            kept.append(place)
        column[place], scale_of_first = first[direction]
        # a_j, where the column is a_j times the first one of its direction.
        ratio[place] = scale / scale_of_first
    return column, ratio, np.array(kept, dtype=np.int64)


def _directions(inputs: Array, samples: Index) -> Iterator[tuple[int, bytes, float]]:
    """Each column's place, the digest of its direction on these samples, and its entry of largest size (0: none).

    Columns of float32 numbers have the same direction exactly if they are proportional: quotients of two such numbers
    are equal in float64 only where they are equal, because others differ by more than 2^-48 of their size.
    """
    for begin in range(0, inputs.shape[1] if samples.size else 0, AT_ONCE):
        # [columns, samples]: a column lies in one piece, so that it can be hashed.
        block = np.ascontiguousarray(inputs[samples, begin : begin + AT_ONCE].T)
        largest = np.abs(block).argmax(axis=1)
        scale = block[np.arange(len(block)), largest]
        directions = block / np.where(scale == 0, 1.0, scale)[:, None] + 0.0  # -0 becomes 0
        for offset, direction in enumerate(directions):
            yield begin + offset, blake2b(direction.tobytes(), digest_size=16).digest(), float(scale[offset])


def _units(space: Space, requirements: Requirements) -> tuple[Index, Array]:
    """Each unit's folded one, and its sign there: two classes that only meet each other become their difference."""
    rivals = (requirements.plus != NO_UNIT) & (requirements.minus != NO_UNIT)
    if space.units == 2 and np.all(rivals):
        # x_0 = -x' and x_1 = x' move s_1 - s_0 by (R_0 + R_1) x'.
        return np.zeros(2, dtype=np.int64), np.array([-1.0, 1.0])
    return np.arange(space.units), np.ones(space.units)


def _of_difference(requirements: Requirements) -> Requirements:
    """Rows on scores 0 and 1 as rows on the one score that is their difference."""
    # The score is s_1 - s_0 now: rows for class 1 want it large, rows for class 0 want it small.
    plus, minus = (np.where(unit == 1, 0, NO_UNIT) for unit in (requirements.plus, requirements.minus))
    return replace(requirements, plus=plus, minus=minus)


def _gathered(entries: Array, unit: Index, column: Index, shape: tuple[int, ...]) -> Array:
    """Sums of the entries [h, c] that fold into the same place."""
    found = np.zeros(shape)
    kept = column != DROPPED
    np.add.at(found, (unit[:, None], column[kept]), entries[:, kept])
    return found
