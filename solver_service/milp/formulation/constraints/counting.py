"""Binaries that say of groups of rows whether they fall short: what every constraint on samples is made of."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.formulation.compact import NEGLIGIBLE, row_scales
from solver_service.milp.formulation.constraints.parts import Part, Rows, sparse
from solver_service.milp.formulation.model import always, widened
from solver_service.milp.formulation.rows import change_rows


def wrong_part(problem: Problem, requirements: Requirements, wrong: Index) -> Part:
    """`t_nk + M_nk z_n >= eps`: right, unless z says otherwise; z of group g is the column `wrong[g]`."""
    # (A x + M z) / scale >= (eps - t0) / scale
    scale, row = row_scales(requirements), np.arange(requirements.rows)
    sample = always(wrong.size)
    sample[requirements.group] = requirements.sample
    places = wrong[requirements.group]
    total = int(wrong.max(initial=problem.columns - 1)) + 1
    switches = sparse(row.size, total, (requirements.big_m / scale, row, places))
    moves = widened(change_rows(problem, requirements, scale), total)
    return Part(
        rows=Rows(
            matrix=sp.csr_array(moves + switches),
            lower=(requirements.need - requirements.level) / scale,
            # A unit of room is a unit of t; the row asks for it only while z is 0.
            strict=1.0 / scale,
            switch=places,
            on=np.zeros(row.size),
            tying=np.zeros(row.size, dtype=bool),
        ),
        complete=lambda change: wrong_at(problem, requirements, change).astype(np.float64),
        objective=np.zeros(wrong.size),
        lower=np.zeros(wrong.size),
        upper=np.ones(wrong.size),
        integer=True,
        sample=sample,
    )


def wrong_at(problem: Problem, requirements: Requirements, change: Array) -> Mask:
    """The groups that fall short after a change [h, d+1]."""
    return np.asarray(requirements.shortfalls(requirements.values(problem, change)) > NEGLIGIBLE)
