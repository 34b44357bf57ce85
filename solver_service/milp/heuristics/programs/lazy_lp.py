"""The elastic LP behind every heuristic: requirements with slack, rows added only when a solution breaks them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.bounds.lagrangian import lagrangian_bound
from solver_service.milp.core.problem import Array, Index, Space
from solver_service.milp.core.requirements import Requirements, worst_rows
from solver_service.milp.formulation.compact import largest_shortfalls
from solver_service.milp.formulation.rows import change_rows

BROKEN = 1e-7
"""A row is added when it is short of its need by more than this many units."""

WIDE = 1e6
"""Shortfalls larger than this many units are counted in a unit of their own."""


@dataclass(frozen=True, eq=False)
class LazyPoint:
    """A solution: the change [h, d+1], every row's t_r, each group's shortfall and the price of its rows.

    `duals` are those of the LP's own rows, in the order in which they were added.
    """

    change: Array
    values: Array
    shortfalls: Array
    prices: Array
    duals: Array


class LazyProgram:
    """min sum weight_g slack_g, subject to `t_r + unit slack_g >= need` in the box; weights may change between runs.

    Every change inside the box is a solution of the job, so `on_change` gets each one on the way, too.
    """

    def __init__(
        self,
        space: Space,
        requirements: Requirements,
        *,
        should_stop: Callable[[], bool],
        on_change: Callable[[Array], object],
    ) -> None:
        self._space, self._requirements = space, requirements
        self._on_change = on_change
        self._should_stop = should_stop
        most = largest_shortfalls(requirements)
        # A slack counts in units of its own where those of the requirements would give numbers out of bounds.
        self._unit = requirements.unit * (1.0 if most.max(initial=0.0) <= WIDE else float(most.max()))
        most *= requirements.unit / self._unit
        # Columns: x [h c] in [-1, 1], then a slack for each group, up to what the box can ask of it.
        self._upper = np.concatenate([np.ones(space.columns), most])
        self._lower = np.concatenate([-np.ones(space.columns), np.zeros(requirements.groups)])
        self._cost = np.zeros(self._upper.size)
        self._scale = 1.0
        self._program = LinearProgram(self._cost, self._lower, self._upper, should_stop=should_stop)
        self._present = np.zeros(requirements.rows, dtype=bool)
        self._order: list[Index] = []
        self._blocks: list[sp.csr_array] = []
        self._add(worst_rows(requirements, requirements.level))

    def solve(self, weights: Array) -> LazyPoint | None:
        """Minimise the shortfalls under these group weights; None when it was stopped on the way."""
        largest = float(weights.max(initial=0.0)) or 1.0
        # Costs are at most 1 in the program; this turns its value back into the objective's unit.
        self._scale = largest * self._unit / self._requirements.unit
        self._cost = np.concatenate([np.zeros(self._space.columns), weights / largest])
        self._program.set_costs(self._cost)
        while not self._should_stop():
            found = self._program.run()
            change = np.clip(found.columns[: self._space.columns], -1.0, 1.0).reshape(self._space.radius.shape)
            self._on_change(change)
            if found.status is not LpStatus.OPTIMAL:
                return None
            values = self._requirements.values(self._space, change)
            broken = self._broken(values, found.columns[self._space.columns :], weights)
            if broken.size == 0:
                return self._point(change, values, found.duals)
            self._add(broken)
        return None

    def _broken(self, values: Array, slack: Array, weights: Array) -> Index:
        """The worst broken row of each group that counts."""
        group = self._requirements.group
        lack = (self._requirements.need - values) / self._unit - slack[group]
        wanted = (lack > BROKEN) & (weights[group] > 0) & ~self._present
        rows = np.flatnonzero(wanted)
        return rows[worst_rows(self._requirements.select(rows), values[rows])]

    def _add(self, rows: Index) -> None:
        chosen = self._requirements.select(rows)
        unit = np.full(rows.size, self._unit)
        slack = sp.csr_array(
            (np.ones(rows.size), (np.arange(rows.size), chosen.group)), shape=(rows.size, chosen.groups)
        )
        # (A x) / unit + slack >= (v - t0) / unit
        block = sp.csr_array(sp.hstack([change_rows(self._space, chosen, unit), slack], format="csr"))
        self._program.add_rows(block, (chosen.need - chosen.level) / self._unit)
        self._present[rows] = True
        self._order.append(rows)
        self._blocks.append(block)

    def _point(self, change: Array, values: Array, duals: Array) -> LazyPoint:
        rows = np.concatenate(self._order)
        prices = np.zeros(self._requirements.groups)
        # A group's price is the sum of its rows' duals: what one unit less of need would save.
        np.add.at(prices, self._requirements.group[rows], np.maximum(duals, 0.0))
        return LazyPoint(change, values, self._requirements.shortfalls(values), prices, duals)

    def bound(self, point: LazyPoint) -> float:
        """A proven lower limit of the weighted shortfalls, from the duals of the latest point."""
        rows = np.concatenate(self._order)
        needs = (self._requirements.need - self._requirements.level[rows]) / self._unit
        matrix = sp.csr_array(sp.vstack(self._blocks, format="csr"))
        return self._scale * lagrangian_bound(
            self._cost, matrix, point.duals, row_lower=needs, lower=self._lower, upper=self._upper
        )
