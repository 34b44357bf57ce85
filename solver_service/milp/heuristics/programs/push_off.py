"""The last step for counts: solutions sit exactly on the need and are lost in rounding, so push them off it."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.core.problem import Array, Index, Mask, Space
from solver_service.milp.core.requirements import Requirements, worst_rows
from solver_service.milp.formulation.rows import change_rows
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents

PUSH = 1e-3
"""How far off the need a kept row is pushed, at most."""


def finish_count(
    space: Space, screened: Screened, incumbents: Incumbents, kept: Mask, should_stop: Callable[[], bool]
) -> None:
    """Offer the solution that keeps them with most room (docs/formulations/rounding.md, "Rounding to float32")."""
    wanted = screened.requirements.select(kept[screened.requirements.group])
    change = push_off(space, wanted, should_stop)
    if change is not None:
        incumbents.offer(change)


def push_off(space: Space, wanted: Requirements, should_stop: Callable[[], bool]) -> Array | None:
    """The change that meets all rows by the same `delta <= 1e-3`, as large as can be; None if stopped or in vain."""
    # Columns x [h c] and delta, in units of PUSH; below 0 where not all rows can be met.
    cost = np.zeros(space.columns + 1)
    cost[-1] = -1.0
    lower = np.append(-np.ones(space.columns), -1.0)
    upper = np.append(np.ones(space.columns), 1.0)
    program = LinearProgram(cost, lower, upper, should_stop=should_stop)
    rows, present = worst_rows(wanted, wanted.level), np.zeros(wanted.rows, dtype=bool)
    while not should_stop():
        _add(program, space, wanted, rows)
        present[rows] = True
        found = program.run()
        if found.status is not LpStatus.OPTIMAL:
            return None
        change = np.clip(found.columns[:-1], -1.0, 1.0).reshape(space.radius.shape)
        values = np.where(present, np.inf, wanted.values(space, change))
        rows = _broken(wanted, values, PUSH * float(found.columns[-1]))
        if rows.size == 0:
            return change
    return None


def _add(program: LinearProgram, space: Space, wanted: Requirements, rows: Index) -> None:
    chosen = wanted.select(rows)
    # A x / PUSH - delta >= (v - t0) / PUSH
    delta = sp.csr_array(np.full((rows.size, 1), -1.0))
    scale = np.full(rows.size, PUSH)
    block = sp.csr_array(sp.hstack([change_rows(space, chosen, scale), delta], format="csr"))
    program.add_rows(block, (chosen.need - chosen.level) / PUSH)


def _broken(wanted: Requirements, values: Array, push: float) -> Index:
    """The worst row of each group that is short of need + push."""
    rows = np.flatnonzero(values < wanted.need + push - 1e-7)
    return rows[worst_rows(wanted.select(rows), values[rows])]
