"""The compact model with a job's extra constraints in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from shared.contracts import Constraint
from shared.objectives import WORST
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.formulation.compact import (
    CompactColumns,
    Cuts,
    columns_of,
    compact_model,
    complete,
    row_scales,
)
from solver_service.milp.formulation.constraints.on_samples import Shares, share_parts, shares_of
from solver_service.milp.formulation.constraints.on_weights import Pins, weight_parts
from solver_service.milp.formulation.constraints.parts import Part, Rows, grow, plain_rows
from solver_service.milp.formulation.constraints.worst_rate import worst_part
from solver_service.milp.formulation.model import Extension, LinearModel, always
from solver_service.milp.presolve.screening import Screened


@dataclass(frozen=True, eq=False)
class ConstrainedModel:
    """A model, what is known of its rows (see `Rows`), and how to read and to write its solutions."""

    model: LinearModel
    strict: Array
    switch: Index
    on: Array
    tying: Mask
    pins: Pins
    parts: tuple[Part, ...]
    requirements: Requirements
    columns: CompactColumns

    @property
    def extension(self) -> Extension:
        """What the constraints add to the compact model."""
        added = sum(part.rows.lower.size for part in self.parts)
        rows = np.arange(self.model.rows - added, self.model.rows)
        samples = [always(self.columns.total), *(part.samples for part in self.parts)]
        return Extension(self.model.only(rows), np.concatenate(samples))

    def plus(self, matrix: sp.csr_array, lower: Array) -> "ConstrainedModel":
        """With more rows `matrix x >= lower` over its columns, which every solution keeps anyway."""
        more = Part(plain_rows(matrix, lower))
        return replace(
            self,
            model=grow(self.model, [more]),
            strict=np.concatenate([self.strict, more.rows.strict]),
            switch=np.concatenate([self.switch, more.rows.switch]),
            on=np.concatenate([self.on, more.rows.on]),
            tying=np.concatenate([self.tying, more.rows.tying]),
            parts=(*self.parts, more),
        )

    def complete(self, problem: Problem, change: Array) -> Array:
        """The solution that a feasible change [h, d+1] extends to."""
        values = self.requirements.values(problem, change)
        own = complete(self.requirements, self.columns, change, values)
        return np.concatenate([own, *(part.complete(change) for part in self.parts)])

    def switched_on(self, solution: Array) -> Mask:
        """The strict rows that hold at a solution's binaries."""
        found = (self.switch < 0) | (np.rint(solution[self.switch]) == self.on)
        return np.asarray((self.strict > 0) & found)

    @property
    def largest_scale(self) -> float:
        """What a unit in any strict row is in scores, at most: a solver's tolerance is one of rows."""
        strict = self.strict[self.strict > 0]
        return float(1.0 / strict.min()) if strict.size else 0.0

    def tightened(self, room: float) -> LinearModel:
        """The model whose strict rows keep some room: what its solutions claim survives rounding."""
        # on = 0: A x + (M + room) z >= v + room, which asks for room at z = 0 and for what it did at z = 1.
        # on = 1: A x - (hi + room) v >= -q, which asks for room at v = 1 alone.
        rows = np.flatnonzero((self.strict > 0) & (self.switch >= 0))
        sign = np.where(self.on[rows] > 0, -1.0, 1.0)
        more = sp.csr_array((sign * room * self.strict[rows], (rows, self.switch[rows])), shape=self.model.matrix.shape)
        raised = np.where((self.strict > 0) & ~((self.switch >= 0) & (self.on > 0)), room * self.strict, 0.0)
        return replace(
            self.model, matrix=sp.csr_array(self.model.matrix + more), row_lower=self.model.row_lower + raised
        )


def constrained_model(
    problem: Problem, screened: Screened, cuts: Cuts, constraints: Sequence[Constraint]
) -> ConstrainedModel:
    """Build it; signs are in the problem's box already."""
    requirements = screened.requirements
    columns = columns_of(problem, requirements)
    base = compact_model(problem, requirements, constant=screened.cost, cuts=cuts)
    parts: list[Part] = []
    if problem.objective.name in WORST:
        # The binaries of errors cost nothing by themselves here; the column e does.
        base = replace(base, objective=np.zeros(base.columns), constant=0.0)
        parts.append(worst_part(problem, screened, columns.give_up, first=columns.total))
    shares = shares_of(problem, constraints)
    if shares is not None:
        own = _own_binaries(problem, screened, columns, shares)
        first = columns.total + sum(part.lower.size for part in parts)
        parts += share_parts(problem, shares, first=first, own=own)
    # Parts take columns one after another: each begins where the last one ended.
    first = columns.total + sum(part.lower.size for part in parts)
    on_weights, pins = weight_parts(problem, constraints, first)
    parts += on_weights
    known = [_base_rows(base, requirements, columns), *(part.rows for part in parts)]
    return ConstrainedModel(
        model=grow(base, parts),
        strict=np.concatenate([rows.strict for rows in known]),
        switch=np.concatenate([rows.switch for rows in known]),
        on=np.concatenate([rows.on for rows in known]),
        tying=np.concatenate([rows.tying for rows in known]),
        pins=pins,
        parts=tuple(parts),
        requirements=requirements,
        columns=columns,
    )


def _own_binaries(problem: Problem, screened: Screened, columns: CompactColumns, shares: Shares) -> Index | None:
    """zero_one and worst rates count the same samples as the constraints do: their binaries serve both."""
    if problem.objective.name not in ("zero_one", *WORST):
        return None
    found = always(problem.cost.size)
    found[screened.group_of] = columns.give_up
    own = found[shares.screened.group_of]
    return own if (own >= 0).all() else None


def _base_rows(base: LinearModel, requirements: Requirements, columns: CompactColumns) -> Rows:
    """The objective's own rows: strict where they count, for nothing but a slack softens the others."""
    rows = plain_rows(base.matrix, base.row_lower)
    if requirements.style != "count":
        return rows
    own = np.arange(requirements.rows)
    rows.strict[own] = 1.0 / row_scales(requirements)
    rows.switch[own] = columns.give_up[requirements.group]
    return rows
