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
"""Groups in a block at first; then blocks are merged by twos."""
SHARE = 0.4
"""Of the time for all blocks, what the MIP of one may take."""
GAIN = 1e-4
"""A block that gains less, as a share of its largest price, leaves no row."""
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


@dataclass(frozen=True, eq=False)
class Gain:
    """By how much a block's value is proven to be above what the duals prove of it, and the rows that say so."""

    value: float
    rows: tuple[tuple[Array, float], ...]


def raise_by_blocks(
    relaxation: PairRelaxation,
    should_stop: Callable[[], bool],
    on_bound: Callable[[float], None],
    *,
    seconds_left: Callable[[], float] = lambda: math.inf,
    size: int = SIZE,
) -> None:
    """Raise a relaxation's bound by blocks that grow by twos; its next run takes up a row of every block that gained.

    It need not be solved to the end: any duals can be split. All blocks are priced by the same ones, so that a pair
    begins with what its halves have gained. Every gain is told at once; a stop keeps what was proven. `should_stop` is
    asked between a solver's steps, which can be long where there are many columns: `seconds_left` ends these.
    """
    # Without a price on any row there is nothing to split.
    if not relaxation.duals.any():
        return
    most = SHARE * seconds_left()
    affinity = Affinity(relaxation)
    blocks = affinity.gather(size)
    gains = [Gain(0.0, ())] * len(blocks)
    while True:
        rest, parts = split(relaxation, blocks)
        # The duals alone prove the relaxation's last bound; then a MIP's value replaces what they prove of its part.
        total = rest + sum(block.proven for block in parts) + sum(gain.value for gain in gains)
        for number, block in enumerate(parts):
            if should_stop():
                break
            value, scale = block_value(relaxation, block, min(most, seconds_left()), should_stop)
            more = value - block.proven - gains[number].value
            # Less than this is lost in a solver's tolerances: its row would be noise.
            if more <= GAIN * scale:
                continue
            # q . x + k . w >= value holds for every solution, so the relaxation may have it as a row.
            row = _row(relaxation, block.cost / scale, value / scale)
            gains[number] = Gain(value - block.proven, (row,))
            total += more
            relaxation.raise_to(total)
            on_bound(relaxation.bound)
        if len(blocks) == 1 or should_stop():
            break
        pairs = affinity.pairs(blocks)
        blocks = [np.concatenate([blocks[number] for number in pair]) for pair in pairs]
        gains = [_together([gains[number] for number in pair]) for pair in pairs]
    rows = _together(gains).rows
    if rows:
        relaxation.give(sp.csr_array(np.array([row for row, _ in rows])), np.array([limit for _, limit in rows]))


def _together(gains: list[Gain]) -> Gain:
    return Gain(sum(gain.value for gain in gains), tuple(row for gain in gains for row in gain.rows))


def split(relaxation: PairRelaxation, blocks: list[Index]) -> tuple[float, list[Block]]:
    """Price what blocks share by the last duals; the first number and the blocks' values add up to a bound."""
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
    if scale == 0.0:
        return block.proven, scale
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
