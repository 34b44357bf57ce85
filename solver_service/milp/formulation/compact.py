"""The compact model: one binary per undecided sample, one row per rival that matters, tight big-M."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from solver_service.milp.core.problem import Array, Index, Mask, Space
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.formulation.model import LinearModel, always, stack
from solver_service.milp.formulation.rows import change_rows

WIDE = {"count": 100.0, "capped": 1e4, "linear": 1e4}
"""Rows with a larger big-M, in units, are scaled down to this one."""
NEGLIGIBLE = 1e-9


@dataclass(frozen=True, eq=False)
class Cuts:
    """Valid rows `give_up z + slack xi >= 1` over two groups each: groups [c, 2], and both coefficients [c, 2]."""

    groups: Index
    give_up: Array
    slack: Array

    def select(self, rows: Mask | Index) -> "Cuts":
        """Some of the cuts."""
        return Cuts(self.groups[rows], self.give_up[rows], self.slack[rows])


NO_CUTS = Cuts(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2)), np.zeros((0, 2)))


@dataclass(frozen=True, eq=False)
class CompactColumns:
    """Where a group's columns are: its slack xi and its binary z, or -1 where it has none."""

    slack: Index
    give_up: Index
    total: int


def columns_of(space: Space, requirements: Requirements) -> CompactColumns:
    """Lay the columns out: the change, then slacks, then binaries (a ramp sample that cannot go below 0 has none)."""
    groups = requirements.groups
    has_slack = np.full(groups, requirements.style != "count")
    has_binary = np.full(groups, requirements.style != "linear")
    # Where lo_r >= v - m for all rows no shortfall is above its cap, and xi alone says what it costs.
    if requirements.style == "capped":
        has_binary[:] = False
        has_binary[requirements.group[requirements.low < requirements.need - requirements.unit]] = True
    # Numbered group by group: [x, all slacks, all binaries].
    slack = np.where(has_slack, space.columns + np.cumsum(has_slack) - 1, -1)
    first = space.columns + int(has_slack.sum())
    give_up = np.where(has_binary, first + np.cumsum(has_binary) - 1, -1)
    return CompactColumns(slack, give_up, first + int(has_binary.sum()))


def compact_model(
    space: Space, requirements: Requirements, *, constant: float = 0.0, cuts: Cuts = NO_CUTS
) -> LinearModel:
    """Build it (docs/formulations/models.md, "Compact model"); `constant` is the cost of what screening gave up."""
    columns = columns_of(space, requirements)
    scale = row_scales(requirements)
    # A x + m xi + M z >= v - t0, each row divided by its scale; cuts have 1 on the right.
    row_lower = np.concatenate([(requirements.need - requirements.level) / scale, np.ones(len(cuts.groups))])
    return replace(
        rowless_model(space, requirements, columns, constant=constant),
        matrix=stack(requirement_rows(space, requirements, columns, scale), cut_rows(cuts, columns)),
        row_lower=row_lower,
        row_upper=np.full(row_lower.size, np.inf),
        indicator=always(row_lower.size),
    )


def rowless_model(
    space: Space, requirements: Requirements, columns: CompactColumns, *, constant: float = 0.0
) -> LinearModel:
    """The compact model's columns, their costs and their bounds, before any row."""
    lower, upper = np.zeros(columns.total), np.ones(columns.total)
    # x in [-1, 1]; xi and z in [0, 1].
    lower[: space.columns] = -1.0
    objective = np.zeros(columns.total)
    for place in (columns.slack, columns.give_up):
        objective[place[place >= 0]] = requirements.cost[place >= 0]
    if requirements.style == "linear":
        # Without a cap xi has to reach the worst corner of the box.
        upper[columns.slack] = largest_shortfalls(requirements)
    integer = np.zeros(columns.total, dtype=bool)
    integer[columns.give_up[columns.give_up >= 0]] = True
    return LinearModel(
        objective=objective,
        constant=constant,
        matrix=sp.csr_array((0, columns.total)),
        row_lower=np.zeros(0),
        row_upper=np.zeros(0),
        lower=lower,
        upper=upper,
        integer=integer,
        change_columns=space.columns,
        indicator=always(0),
    )


def cuts_model(requirements: Requirements, cuts: Cuts, *, constant: float = 0.0) -> LinearModel:
    """The cuts alone, over every group's binary and then every group's slack: a small model with a real bound."""
    groups = requirements.groups
    # No x at all: a covering problem over [every z, every xi].
    columns = CompactColumns(slack=np.arange(groups, 2 * groups), give_up=np.arange(groups), total=2 * groups)
    matrix = cut_rows(cuts, columns)
    most_slack = 1.0 if requirements.style == "capped" else 0.0
    return LinearModel(
        objective=np.tile(requirements.cost, 2),
        constant=constant,
        matrix=matrix,
        row_lower=np.ones(len(cuts.groups)),
        row_upper=np.full(len(cuts.groups), np.inf),
        lower=np.zeros(2 * groups),
        upper=np.repeat([1.0, most_slack], groups),
        integer=np.repeat([True, False], groups),
        change_columns=0,
        indicator=always(len(cuts.groups)),
    )


def complete(requirements: Requirements, columns: CompactColumns, change: Array, values: Array) -> Array:
    """The full solution vector that a change [h, d+1] with row values t_r extends to."""
    shortfalls = requirements.shortfalls(values)
    solution = np.zeros(columns.total)
    solution[: change.size] = change.ravel()
    give_up = np.zeros(requirements.groups, dtype=bool)
    if requirements.style == "count":
        give_up = shortfalls > NEGLIGIBLE
    elif requirements.style == "capped":
        # Beyond its cap a group is given up, and the row needs no slack any more.
        give_up = (shortfalls > 1.0) & (columns.give_up >= 0)
    with_slack = columns.slack >= 0
    capped = np.minimum(shortfalls, 1.0) if requirements.style == "capped" else shortfalls
    # z lifts the row by M, as far as the box can pull it down, so xi is 0 beside it.
    solution[columns.slack[with_slack]] = np.where(give_up, 0.0, capped)[with_slack]
    solution[columns.give_up[give_up]] = 1.0
    return solution


def largest_shortfalls(requirements: Requirements) -> Array:
    """The largest shortfall of each group anywhere in the box."""
    return requirements.shortfalls(requirements.low)


def row_scales(requirements: Requirements) -> Array:
    """What each row is divided by: the unit of the slack, or what keeps a big-M from growing out of bounds."""
    return np.maximum(requirements.unit, requirements.big_m / WIDE[requirements.style])


def requirement_rows(space: Space, requirements: Requirements, columns: CompactColumns, scale: Array) -> sp.csr_array:
    """The rows of (some) requirements over all columns, divided by scale [rows]: [rows, total]."""
    change, groups = change_rows(space, requirements, scale), _group_part(space, requirements, columns, scale)
    return sp.csr_array(sp.hstack([change, groups], format="csr"))


def _group_part(space: Space, requirements: Requirements, columns: CompactColumns, scale: Array) -> sp.csr_array:
    """Coefficients of slacks and binaries in the requirements' rows."""
    row = np.arange(requirements.rows)
    slack = columns.slack[requirements.group]
    give_up = columns.give_up[requirements.group]
    # m / scale for xi, M_r / scale for z.
    entries = [
        ((requirements.unit / scale)[slack >= 0], row[slack >= 0], slack[slack >= 0]),
        ((requirements.big_m / scale)[give_up >= 0], row[give_up >= 0], give_up[give_up >= 0]),
    ]
    data, rows, places = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (requirements.rows, columns.total - space.columns)
    return sp.csr_array((data, (rows, places - space.columns)), shape=shape)


def cut_rows(cuts: Cuts, columns: CompactColumns) -> sp.csr_array:
    """The cuts over all columns: [c, total]."""
    # Pairs [c, 2] laid flat: cut i has the entries 2 i and 2 i + 1.
    row = np.repeat(np.arange(len(cuts.groups)), 2)
    groups = cuts.groups.ravel()
    data, rows, places = [], [], []
    for place, value in ((columns.give_up[groups], cuts.give_up), (columns.slack[groups], cuts.slack)):
        # A group without such a column has the value 0 there: its term drops out of a row that stays valid.
        present = place >= 0
        data.append(value.ravel()[present])
        rows.append(row[present])
        places.append(place[present])
    coordinates = (np.concatenate(rows), np.concatenate(places))
    return sp.csr_array((np.concatenate(data), coordinates), shape=(len(cuts.groups), columns.total))
