"""What can be decided before any solver: samples that cannot fail, cannot be won, and rivals that cannot matter."""

from dataclasses import dataclass, replace

import numpy as np

from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.core.requirements import Requirements

ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Screened:
    """Requirements left to decide, the exact cost of those that cannot be met, and where the groups came from.

    `group_of[g]` is the original number of the remaining group g; `lost` marks the original groups given up; `rows`
    counts what left the remaining groups: rivals that cannot win, or sides that an error cannot reach.
    """

    requirements: Requirements
    cost: float
    group_of: Index
    lost: Mask
    rows: int = 0

    @property
    def samples(self) -> int:
        """How many samples the remaining model looks at."""
        return int(np.unique(self.requirements.sample).size)


def screen(requirements: Requirements) -> Screened:
    """Drop what the box decides (docs/formulations/reductions.md, "Screening"), exact but for a relative guard."""
    # [r]: a row that is this close to its need is left to the model.
    guard = ROUNDING * (np.abs(requirements.level) + requirements.reach + abs(requirements.need))
    # lo_r >= v: met all over the box, so nothing depends on the row.
    open_rows = requirements.low - guard < requirements.need
    lost = _hopeless(requirements, guard)
    # A lost group costs its all wherever x goes: its cost joins the constant, its rows go.
    left = requirements.select(open_rows & ~lost[requirements.group])
    kept, group = np.unique(left.group, return_inverse=True)
    return Screened(
        requirements=replace(left, group=group.astype(np.int64), cost=requirements.cost[kept]),
        cost=float(requirements.cost[lost].sum()),
        group_of=kept,
        lost=lost,
        rows=int(np.isin(requirements.group, kept).sum()) - left.rows,
    )


def _hopeless(requirements: Requirements, guard: Array) -> Mask:
    """Groups that cost their all anywhere in the box; linear losses have none."""
    lost = np.zeros(requirements.groups, dtype=bool)
    if requirements.style != "linear":
        # t_r < v everywhere: always short. Capped: t_r < v - m everywhere, a shortfall above its cap of 1.
        floor = requirements.need if requirements.style == "count" else requirements.need - requirements.unit
        lost[requirements.group[requirements.high + guard < floor]] = True
    return lost
