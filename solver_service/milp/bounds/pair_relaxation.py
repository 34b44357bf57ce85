"""The relaxation of the compact model with all conflict cuts, solved to the end: broken rows come, loose rows go."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.bounds.lagrangian import lagrangian_bound
from solver_service.milp.bounds.rows import CONSTRAINT, CUT, GIVEN, NOBODY, REQUIREMENT, Rows, ends, no_rows
from solver_service.milp.core.problem import Array, Index, Space
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.formulation.compact import (
    CompactColumns,
    Cuts,
    columns_of,
    cut_rows,
    requirement_rows,
    row_scales,
    rowless_model,
)
from solver_service.milp.formulation.model import Extension, LinearModel, always, widened

BROKEN = 1e-6
"""By how much a requirement's row has to be broken to be added, in units of its scale."""
CUT_BROKEN = 1e-4
"""The same for cuts, whose right side is 1: a weaker cut gains less than its row costs."""
AT_ONCE = 500
"""Requirements added in a round, at most."""
CANDIDATES = 5000
"""The most broken cuts, of which those are taken that keep to a few per group."""
CUTS_PER_GROUP = 2
BUILT_AT_ONCE = 1000
"""Requirements whose rows are built between two looks at the clock."""
LOOSE_ROUNDS = 3
"""Rounds in a row after which a loose row leaves."""
PURGE = 50
"""Rows that leave are taken out together, once they are so many."""
STALLED, STALLED_ROUNDS = 1e-5, 6
"""The relaxation ends when so many rounds in a row gained no more than this share of the bound."""


class PairRelaxation:
    """A linear program that is taken up again at any time, with its rows, its last point and its last duals.

    Costs are divided by the largest, so that tolerances mean the same in any unit; `bound` is in the job's unit, with
    `constant` in it, and is what the best duals so far prove. What a job's constraints add (`extension`) takes part.
    """

    def __init__(
        self,
        space: Space,
        requirements: Requirements,
        cuts: Cuts,
        *,
        constant: float = 0.0,
        extension: Extension | None = None,
    ) -> None:
        self.space, self.requirements, self.cuts = space, requirements, cuts
        self.columns = columns_of(space, requirements)
        whole = extension or _no_extension(rowless_model(space, requirements, self.columns, constant=constant))
        # Costs from 0 to 1: duals and tolerances are of that size in any unit of weight.
        self.unit = float(whole.model.objective.max(initial=0.0)) or 1.0
        self.model = replace(whole.model.only(always(0)), objective=whole.model.objective / self.unit)
        self.bound = self.model.constant
        self.rows = no_rows(self.model.columns)
        self.constraints = _constraint_rows(whole.model)
        self.owner = owners(self.columns, requirements, whole.sample)
        # [constraint rows]: the one group whose columns a row touches beside the change, NOBODY for all other rows.
        first, last = ends(self.constraints.matrix, self.owner)
        self.constraint_group = np.where((first == last) & (first < requirements.groups), first, NOBODY)
        self.point = np.zeros(self.model.columns)
        self.duals = np.zeros(0)
        self.solved = False
        # Whether the duals are those of all rows; rows that came since have 0.
        self._priced = False
        self._scale = row_scales(requirements)
        # Which requirements [rows], which cuts [cuts] and which constraints' rows are rows of the program now.
        sizes = (requirements.rows, len(cuts.groups), self.constraints.size)
        self._present = tuple(np.zeros(size, dtype=bool) for size in sizes)
        self._loose_for = np.zeros(0, dtype=np.int64)
        self._given = 0
        self._should_stop: Callable[[], bool] = lambda: False
        self._program = LinearProgram(
            self.model.objective, self.model.lower, self.model.upper, should_stop=self._asked_to_stop
        )

    def _asked_to_stop(self) -> bool:
        return self._should_stop()

    def run(self, should_stop: Callable[[], bool], on_bound: Callable[[float], None]) -> bool:
        """Add and drop rows until nothing is broken or gains; every gain is told. True unless stopped.

        `solved` stays True once that was so: then only rows of blocks can have come.
        """
        ended = self._run(should_stop, on_bound)
        self.solved |= ended
        return ended

    def _run(self, should_stop: Callable[[], bool], on_bound: Callable[[float], None]) -> bool:
        self._should_stop = should_stop
        stalled = 0
        while not should_stop():
            new = self._broken()
            # Nothing is broken, and every row has its dual: the whole relaxation is solved.
            if not new.size and self._priced:
                return True
            self._add(new)
            before, solved = self.bound, self._solve()
            if self.bound > before:
                on_bound(self.bound)
            if not solved:
                return False
            stalled = stalled + 1 if self.bound - before <= STALLED * abs(self.bound) else 0
            if stalled > STALLED_ROUNDS:
                return True
            self._purge()
        return False

    def give(self, matrix: sp.csr_array, lower: Array) -> None:
        """Hand in rows `matrix x >= lower` that hold for every solution; the next run takes them up."""
        numbers = np.arange(self._given, self._given + lower.size)
        self._given += lower.size
        self._add(Rows(matrix, lower, np.full(lower.size, GIVEN), numbers))

    def lagrangian(self, rows: Rows, duals: Array, cost: Array) -> float:
        """What duals [r] of some rows prove about `cost . x`, in units of the largest cost."""
        return lagrangian_bound(
            cost, rows.matrix, duals, row_lower=rows.lower, lower=self.model.lower, upper=self.model.upper
        )

    def raise_to(self, value: float) -> None:
        """Take note of a proven value, in units of the largest cost and without the constant."""
        self.bound = max(self.bound, value * self.unit + self.model.constant)

    @property
    def learnt(self) -> Rows:
        """The cuts and the handed-in rows that are in at the end."""
        return self.rows.select((self.rows.kind == CUT) | (self.rows.kind == GIVEN))

    def branching_model(self, should_stop: Callable[[], bool]) -> LinearModel | None:
        """The compact model with the cuts and the handed-in rows that are in at the end; rows that are in lead.

        None when it had to stop: the rows of a large model take seconds.
        """
        parts, leading = [], [self._present[REQUIREMENT]]
        for begin in range(0, self.requirements.rows, BUILT_AT_ONCE):
            if should_stop():
                return None
            parts.append(self.requirement_rows(np.arange(begin, min(begin + BUILT_AT_ONCE, self.requirements.rows))))
        # Requirements that are in at the end lead, and so do all cuts and blocks' rows that are.
        kept = self.learnt
        leading.append(np.ones(kept.size, dtype=bool))
        row_lower = np.concatenate([part.lower for part in [*parts, kept]])
        return replace(
            rowless_model(self.space, self.requirements, self.columns, constant=self.model.constant),
            matrix=sp.csr_array(sp.vstack([part.matrix for part in [*parts, kept]], format="csr")),
            row_lower=row_lower,
            row_upper=np.full(row_lower.size, np.inf),
            indicator=always(row_lower.size),
            leading=np.concatenate(leading),
        )

    def requirement_rows(self, numbers: Index) -> Rows:
        """Requirements as rows, by their numbers."""
        some, scale = self.requirements.select(numbers), self._scale[numbers]
        return Rows(
            widened(requirement_rows(self.space, some, self.columns, scale), self.model.columns),
            (some.need - some.level) / scale,
            np.full(numbers.size, REQUIREMENT),
            numbers,
        )

    def _solve(self) -> bool:
        found = self._program.run()
        solved, before = found.status is LpStatus.OPTIMAL, self.bound
        # An interrupted dual simplex has duals, too, and any duals prove something.
        if found.duals.size == self.rows.size and np.isfinite(found.duals).all():
            self.raise_to(self.lagrangian(self.rows, found.duals, self.model.objective))
        if solved or self.bound > before:
            self.duals = np.maximum(found.duals, 0.0)
        if solved:
            self.point, self._priced = found.columns, True
        return solved

    def _add(self, new: Rows) -> None:
        if not new.size:
            return
        self._program.add_rows(new.matrix, new.lower)
        self.rows, self._priced = self.rows.plus(new), False
        self.duals = np.concatenate([self.duals, np.zeros(new.size)])
        self._loose_for = np.concatenate([self._loose_for, np.zeros(new.size, dtype=np.int64)])
        # Rows of the kind GIVEN have no place there: once they are out they do not come back.
        for kind, present in enumerate(self._present):
            present[new.number[new.kind == kind]] = True

    def _broken(self) -> Rows:
        broken = self.requirement_rows(self._broken_requirements()).plus(self.cut_rows(self._broken_cuts()))
        return broken.plus(self.constraints.select(self._broken_constraints()))

    def cut_rows(self, numbers: Index) -> Rows:
        """Cuts as rows, by their numbers."""
        matrix = widened(cut_rows(self.cuts.select(numbers), self.columns), self.model.columns)
        return Rows(matrix, np.ones(numbers.size), np.full(numbers.size, CUT), numbers)

    def _group_values(self) -> tuple[Array, Array]:
        """The last point's z and xi of every group, 0 where it has none."""
        places = (self.columns.give_up, self.columns.slack)
        z, xi = (np.where(place >= 0, self.point[np.maximum(place, 0)], 0.0) for place in places)
        return z, xi

    def _broken_requirements(self) -> Index:
        """The most broken requirements that are not in: need - t_r - unit xi - M z > 0."""
        requirements, group = self.requirements, self.requirements.group
        # t_r + m xi + M z >= v, in units of the row's scale, in which the LP has its tolerances.
        z, xi = self._group_values()
        change = self.point[: self.space.columns].reshape(self.space.radius.shape)
        lack = requirements.need - requirements.values(self.space, change)
        lack = (lack - requirements.unit * xi[group] - requirements.big_m * z[group]) / self._scale
        lack[self._present[REQUIREMENT]] = 0.0
        return _largest(lack, AT_ONCE, BROKEN)

    def _broken_constraints(self) -> Index:
        """The most broken rows of the constraints that are not in."""
        lack = self.constraints.lower - self.constraints.matrix @ self.point
        lack[self._present[CONSTRAINT]] = 0.0
        return _largest(lack, AT_ONCE, BROKEN)

    def _broken_cuts(self) -> Index:
        """The most broken cuts that are not in, two a group and round: more of them would say the same."""
        z, xi = self._group_values()
        cuts = self.cuts
        # [cuts]: by how much a z + b xi >= 1 is short, summed over both groups [cuts, 2].
        lack = 1.0 - (cuts.give_up * z[cuts.groups] + cuts.slack * xi[cuts.groups]).sum(axis=1)
        lack[self._present[CUT]] = 0.0
        candidates = _largest(lack, CANDIDATES, CUT_BROKEN)
        taken = np.zeros(self.requirements.groups, dtype=np.int64)
        chosen = []
        for number, (one, other) in zip(candidates.tolist(), cuts.groups[candidates].tolist(), strict=True):
            if taken[one] < CUTS_PER_GROUP and taken[other] < CUTS_PER_GROUP:
                taken[one] += 1
                taken[other] += 1
                chosen.append(number)
        return np.array(chosen, dtype=np.int64)

    def _purge(self) -> None:
        """Take out rows that have been loose for some rounds; they come back if they are broken again."""
        # A row with a dual above 0 is a part of the proof: it stays.
        loose = (self.rows.matrix @ self.point - self.rows.lower > BROKEN) & (self.duals <= 0.0)
        self._loose_for = np.where(loose, self._loose_for + 1, 0)
        leaving = self._loose_for >= LOOSE_ROUNDS
        if leaving.sum() <= PURGE:
            return
        self._program.delete_rows(np.flatnonzero(leaving))
        for kind, present in enumerate(self._present):
            present[self.rows.number[leaving & (self.rows.kind == kind)]] = False
        self.rows, self.duals = self.rows.select(~leaving), self.duals[~leaving]
        self._loose_for = self._loose_for[~leaving]


def _no_extension(model: LinearModel) -> Extension:
    return Extension(model, always(model.columns))


def _constraint_rows(model: LinearModel) -> Rows:
    numbers = np.arange(model.rows)
    return Rows(model.matrix, model.row_lower, np.full(model.rows, CONSTRAINT), numbers)


def owners(columns: CompactColumns, requirements: Requirements, sample: Index) -> Index:
    """Each column's group [columns]; NOBODY for those of the change.

    A column of a constraint goes with its sample's group; without one it is of a group of its own, the last.
    """
    owner = np.full(sample.size, NOBODY)
    owner[columns.total :] = requirements.groups
    for place in (columns.slack, columns.give_up):
        owner[place[place >= 0]] = np.flatnonzero(place >= 0)
    group_of = np.full(max(requirements.sample.max(initial=-1), sample.max(initial=-1)) + 1, requirements.groups)
    group_of[requirements.sample] = requirements.group
    owner[sample >= 0] = group_of[sample[sample >= 0]]
    return owner


def _largest(values: Array, most: int, least: float) -> Index:
    """Where the largest values are, at most so many and above a least one, the largest first."""
    order = np.argsort(-values, kind="stable")[:most]
    return np.asarray(order[values[order] > least])
