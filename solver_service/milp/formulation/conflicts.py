"""Cuts from pairs of samples that pull the same two units apart: bounds that mean something, before any solver."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.distance import cdist

from solver_service.milp.core.problem import Array, Index, Space
from solver_service.milp.core.requirements import Requirements
from solver_service.milp.formulation.compact import NO_CUTS, Cuts

WORK = 3e8
"""Multiplications spent on distances; beyond it only the rows that are hardest to meet are paired."""
CLEAR = 1e-6
"""How far beyond reach a pair has to be, against tolerances."""
MOST = 200_000
AT_ONCE = 128
"""Rows whose distances are taken between two looks at the clock."""


def pair_cuts(space: Space, requirements: Requirements, should_stop: Callable[[], bool] = lambda: False) -> Cuts:
    """All pairs of rows that no change can meet together (docs/formulations/models.md, "Conflict cuts").

    For rows n (unit a against b) and m (b against a) the biases cancel, and together they fall short of the need by
    `C = need - [level_n + level_m + (R_a + R_b) . |g_n - g_m|] / 2`; if C > 0 the row
    `sum min(1, M / 2C) z + unit / 2C xi >= 1` holds. Once `should_stop` says so, those found so far have to do.
    """
    found = []
    for pairs in _pairs(space, requirements):
        if should_stop():
            break
        found.append(pairs)
    if not found:
        return NO_CUTS
    # Both rows of each pair [p, 2], and C [p], what they lack together.
    rows = np.concatenate([pair for pair, _ in found])
    excess = np.concatenate([lack for _, lack in found])
    # The larger C, the smaller the coefficients M / 2C and m / 2C, and the more the cut demands.
    strongest = np.argsort(-excess, kind="stable")[:MOST]
    rows, excess = rows[strongest], excess[strongest, None]
    return Cuts(
        groups=requirements.group[rows],
        give_up=np.minimum(1.0, requirements.big_m[rows] / (2 * excess)),
        slack=np.broadcast_to(requirements.unit / (2 * excess), rows.shape),
    )


def _pairs(space: Space, requirements: Requirements) -> Iterator[tuple[Index, Array]]:
    """Conflicting rows [c, 2] and their C [c], some rows of a couple of units at a time."""
    # Unit -1 does not move: errors and single logits have rows with one unit.
    radius = np.vstack([space.radius, np.zeros(space.radius.shape[1])])
    couples = [(a, b) for a in range(-1, space.units) for b in range(a + 1, space.units)]
    # most^2 distances of c entries for each couple of units, all within WORK.
    most = max(8, int(np.sqrt(WORK / (max(1, space.inputs.shape[1]) * len(couples)))))
    for a, b in couples:
        first = _hardest(requirements, a, b, most)
        second = _hardest(requirements, b, a, most)
        if not first.size or not second.size:
            continue
        span = radius[a] + radius[b]
        # (R_a + R_b) . |g_n - g_m| is an L1 distance of scaled inputs; the biases, 1 in both, cancel.
        inputs = space.inputs * span
        partners = inputs[requirements.sample[second]]
        for begin in range(0, first.size, AT_ONCE):
            some = first[begin : begin + AT_ONCE]
            apart = cdist(inputs[requirements.sample[some]], partners, "cityblock")
            # [some, second]: the most that t_n + t_m can be anywhere in the box.
            together = requirements.level[some][:, None] + requirements.level[second] + apart
            # C for lambda = 1/2 on both rows; a pair conflicts where it is above 0.
            lack = requirements.need - together / 2
            one, other = np.nonzero(lack > CLEAR * (1 + np.abs(together)))
            yield np.column_stack([some[one], second[other]]), lack[one, other]


def _hardest(requirements: Requirements, plus: int, minus: int, most: int) -> Index:
    rows = np.flatnonzero((requirements.plus == plus) & (requirements.minus == minus))
    return rows[np.argsort(requirements.level[rows], kind="stable")[:most]]
