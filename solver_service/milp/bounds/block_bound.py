"""Lagrangian block bounds: the duals of a relaxation split it by blocks of samples, each a small MIP of its own.

The relaxation has rows `F v >= L` with duals `y >= 0`, and v = (x, w): the change x, and every group's own columns w.
Put (some) groups into blocks. A row whose groups are all in block b is b's own; the others, C, join blocks. For
feasible v

    c . v  >=  y_C . L_C + (c - F_C' y_C) . v                            as y_C >= 0 and F_C v >= L_C
           =   y_C . L_C + sum_b (q_b . x + k_b . w_b) + r . v

with `k = c - F_C' y_C` on the blocks' columns, `q_b = F_b' y_b` on those of x (what the block's own rows pay for x),
and r what is left: on x `c - F_C' y_C - sum_b q_b`, on groups without a block `c - F_C' y_C`. The last term is at
least its minimum over the columns' bounds, and every term of the sum at least the optimum of the block's MIP, in which
x is a copy of its own. So any split holds; with this one a block's LP value, `y_b . L_b` and what its columns add, is
what the relaxation proves of it, and the MIP's value can only be larger.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from solver_service.milp.backends.highs import lower_limit
from solver_service.milp.bounds.blocks import Affinity
from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.bounds.rows import CONSTRAINT, CUT, NOBODY, REQUIREMENT, Rows, ends
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.formulation.model import LinearModel, always

SIZE = 12
"""Groups in a block at first; blocks are merged by twos as long as it pays."""
SECONDS = 3.0
"""What the MIP of a block may take at first; twice as long once blocks are merged."""
GAIN = 1e-4
"""A block that gains less, as a share of its largest price, leaves no row."""
PAYS = 1e-3
"""Blocks are merged as long as the last ones raised the bound by such a share."""
NEGLIGIBLE = 1e-7
"""Coefficients of a block's row that are left out, of a largest 1; its right side pays for them."""


@dataclass(frozen=True, eq=False)
class Block:
    """A block's groups and columns, prices [all columns], own rows, and what their duals prove of it already."""

    groups: Index
    columns: Index
    cost: Array
    rows: Rows
    proven: float


def raise_by_blocks(
    relaxation: PairRelaxation,
    should_stop: Callable[[], bool],
    on_bound: Callable[[float], None],
    *,
    seconds_left: Callable[[], float] = lambda: math.inf,
    size: int = SIZE,
) -> None:
    """Raise a solved relaxation's bound by blocks of `size` and more; it keeps a row of every block that gained.

    Every gain is told at once; a stop keeps what was proven. `should_stop` is asked between a solver's steps, which can
    be long where there are many columns: `seconds_left` ends these.
    """
    # Without a price on any row there is nothing to split.
    if not relaxation.duals.any():
        return
    affinity = Affinity(relaxation)
    blocks, seconds = affinity.gather(size), SECONDS
    while not should_stop():
        before = relaxation.bound
        allowed = seconds
        _one_round(relaxation, blocks, lambda: min(allowed, seconds_left()), should_stop, on_bound)  # noqa: B023
        if not relaxation.run(should_stop, on_bound):
            return
        if len(blocks) == 1 or relaxation.bound - before <= PAYS * abs(relaxation.bound):
            return
        blocks, seconds = affinity.merge(blocks), 2 * seconds


def _one_round(
    relaxation: PairRelaxation,
    blocks: list[Index],
    seconds: Callable[[], float],
    should_stop: Callable[[], bool],
    on_bound: Callable[[float], None],
) -> None:
    rest, parts = split(relaxation, blocks)
    # In this split the duals alone prove the relaxation's last bound; then a MIP's value replaces each part.
    total = rest + sum(block.proven for block in parts)
    rows, lower = [], []
    for block in parts:
        if should_stop():
            break
        value, scale = block_value(relaxation, block, seconds(), should_stop)
        # Less than this is lost in a solver's tolerances: its row would be noise.
        if value - block.proven <= GAIN * scale:
            continue
        total += value - block.proven
        relaxation.raise_to(total)
        on_bound(relaxation.bound)
        # q . x + k . w >= value holds for every solution, so the relaxation may have it as a row.
        row, limit = _row(relaxation, block.cost / scale, value / scale)
        rows.append(row)
        lower.append(limit)
    if rows:
        relaxation.give(sp.csr_array(np.array(rows)), np.array(lower))


def split(relaxation: PairRelaxation, blocks: list[Index]) -> tuple[float, list[Block]]:
    """Price what blocks share by the last duals; the first number and the blocks' values add up to a bound.

    Blocks that no dual prices are left out: their value is 0 either way.
    """
    rows, duals, model, change = relaxation.rows, relaxation.duals, relaxation.model, relaxation.space.columns
    # By group: its block, or len(blocks) for none.
    block_of = np.full(relaxation.requirements.groups + 1, len(blocks))
    for number, members in enumerate(blocks):
        block_of[members] = number
    owner = np.where(relaxation.owner == NOBODY, NOBODY, block_of[relaxation.owner])
    first, last = ends(rows.matrix, owner)
    # A row is at home in the one block whose groups it touches; rows across blocks and rows on x alone join.
    home = np.where((first == last) & (first < len(blocks)), first, NOBODY)
    joining = home == NOBODY
    # c - F_C^T y_C over all columns.
    price = model.objective - rows.matrix[joining].T @ duals[joining]
    rest, parts = price.copy(), []
    for number, members in enumerate(blocks):
        own, paid = rows.select(home == number), duals[home == number]
        if not paid.any():
            continue
        # k_b on the block's columns, and q_b = F_b^T y_b on x; what is handed out here is taken from r.
        cost = np.where(owner == number, price, 0.0)
        cost[:change] = (own.matrix.T @ paid)[:change]
        rest -= cost
        columns = np.flatnonzero((owner == number) | (np.arange(owner.size) < change))
        parts.append(Block(members, columns, cost, own, relaxation.lagrangian(own, paid, cost)))
    # min over the box of r . v
    least = np.minimum(rest * model.lower, rest * model.upper).sum()
    return float(duals[joining] @ rows.lower[joining] + least), parts


def block_value(
    relaxation: PairRelaxation, block: Block, seconds: float, should_stop: Callable[[], bool]
) -> tuple[float, float]:
    """What a block's MIP proves of its value, at least what its duals did; and its largest price."""
    scale = float(np.abs(block.cost).max())
    model = _block_model(relaxation, block, scale)
    return max(block.proven, scale * lower_limit(model, seconds=seconds, should_stop=should_stop)), scale


def _block_model(relaxation: PairRelaxation, block: Block, scale: float) -> LinearModel:
    """Its rows of the relaxation, all requirements and constraints of its groups alone, prices divided by scale."""
    model, requirements = relaxation.model, relaxation.requirements
    # All requirements of its groups, in the relaxation or not: with binaries in it, others bind, too.
    wanted = np.isin(requirements.group, block.groups)
    wanted[block.rows.number[block.rows.kind == REQUIREMENT]] = False
    more = np.isin(relaxation.constraint_group, block.groups)
    more[block.rows.number[block.rows.kind == CONSTRAINT]] = False
    open_rows = relaxation.requirement_rows(np.flatnonzero(wanted)).plus(relaxation.constraints.select(more))
    cuts = np.asarray(np.isin(relaxation.cuts.groups, block.groups).all(axis=1))
    cuts[block.rows.number[block.rows.kind == CUT]] = False
    rows = block.rows.plus(open_rows).plus(relaxation.cut_rows(np.flatnonzero(cuts)))
    return LinearModel(
        objective=block.cost[block.columns] / scale,
        constant=0.0,
        matrix=sp.csr_array(sp.csc_array(rows.matrix)[:, block.columns]),
        row_lower=rows.lower,
        row_upper=np.full(rows.size, np.inf),
        lower=model.lower[block.columns],
        upper=model.upper[block.columns],
        integer=model.integer[block.columns],
        change_columns=relaxation.space.columns,
        indicator=always(rows.size),
    )


def _row(relaxation: PairRelaxation, cost: Array, value: float) -> tuple[Array, float]:
    """The row `cost . v >= value` of a block, without coefficients too small for solvers."""
    small = np.abs(cost) < NEGLIGIBLE
    # What is left out could have added at most |cost| . reach, so that much comes off the right side.
    reach = np.maximum(np.abs(relaxation.model.lower), np.abs(relaxation.model.upper))
    return np.where(small, 0.0, cost), value - float(np.abs(cost[small]) @ reach[small])
