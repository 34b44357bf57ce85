"""Which samples to decide together: those whose duals pull the change of weights against each other."""

import numpy as np
import scipy.sparse as sp

from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.bounds.rows import CUT, NOBODY, ends
from solver_service.milp.core.problem import Array, Index

CONFLICT = 10.0
"""How much a cut's dual counts beside opposed forces."""
SAME = 0.3
"""How much forces that agree count, beside forces that are opposed."""
WORK = 1.5e9
"""Multiplications spent on comparing forces; beyond it only the groups of the largest forces are looked at."""
MOST = 1500
"""Groups that are looked at in any case, at most."""


class Affinity:
    """How much there is to gain by deciding two groups together, for the groups that the duals price at all.

    A group's force [h c] is what its rows' duals pull the change by, `sum_r y_r a_r`. Where forces are opposed, the
    groups cannot both have their way, and a small MIP of both proves more than the relaxation.

    `groups` [m] are those that are priced, `near` [m, m] their affinities, `undecided` [m] what to begin with.
    """

    def __init__(self, relaxation: PairRelaxation) -> None:
        rows, duals, groups = relaxation.rows, relaxation.duals, relaxation.requirements.groups
        # [r]: a row of one group has first == last; a cut of a pair has two.
        first, last = ends(rows.matrix, relaxation.owner)
        single = (first == last) & (first != NOBODY) & (first < groups)
        pair = (rows.kind == CUT) & (first != last)
        prices = [(first[single], duals[single]), (first[pair], duals[pair]), (last[pair], duals[pair])]
        self.groups = _priced(relaxation, prices)
        self._place = np.full(groups + 1, NOBODY)  # the last is of columns that are no group's
        self._place[self.groups] = np.arange(self.groups.size)
        one, other = self._place[first], self._place[last]
        force = _forces(relaxation, np.flatnonzero(single & (one != NOBODY)), one, self.groups.size)  # [m, h c]
        self.near = _opposition(force)
        # A priced cut says of its two groups that they cannot both have their way.
        pair &= (one != NOBODY) & (other != NOBODY)
        np.add.at(self.near, (one[pair], other[pair]), CONFLICT * duals[pair])
        np.add.at(self.near, (other[pair], one[pair]), CONFLICT * duals[pair])
        np.fill_diagonal(self.near, 0.0)
        binary = relaxation.columns.give_up[self.groups]
        # z in the middle: the relaxation has not decided. Forces break ties.
        z = np.where(binary >= 0, relaxation.point[np.maximum(binary, 0)], 0.0)
        self.undecided: Array = np.minimum(z, 1 - z) + 1e-3 * np.linalg.norm(force, axis=1)

    def gather(self, size: int) -> list[Index]:
        """Blocks of so many groups: the most undecided one, and one after the other what is nearest to the block."""
        left, blocks = np.ones(self.groups.size, dtype=bool), []
        while left.any():
            chosen = [int(np.argmax(np.where(left, self.undecided, -np.inf)))]
            left[chosen[0]] = False
            # [m]: affinity to the block as it stands.
            score = self.near[chosen[0]].copy()
            while len(chosen) < size and left.any():
                nearest = int(np.argmax(np.where(left, score, -np.inf)))
                chosen.append(nearest)
                left[nearest] = False
                score += self.near[nearest]
            blocks.append(self.groups[chosen])
        return blocks

    def pairs(self, blocks: list[Index]) -> list[tuple[int, ...]]:
        """By twos, each block with the one that is nearest to it; the last can be left alone."""
        # [blocks, m]; the product sums affinities over the pairs of two blocks' groups: [blocks, blocks].
        member = np.zeros((len(blocks), self.groups.size))
        for number, block in enumerate(blocks):
            member[number, self._place[block]] = 1.0
        near = member @ self.near @ member.T
        left, paired = list(range(len(blocks))), []
        while left:
            one, *others = left
            nearest = [others[int(np.argmax(near[one, others]))]] if others else []
            paired.append((one, *nearest))
            left = [number for number in others if number not in nearest]
        return paired


def _priced(relaxation: PairRelaxation, prices: list[tuple[Index, Array]]) -> Index:
    """The groups of the largest sums of duals, as many as there is work for."""
    total = np.zeros(relaxation.requirements.groups)
    for group, price in prices:
        np.add.at(total, group, price)
    # The angles of m forces take m^2 h c multiplications.
    most = min(MOST, int(np.sqrt(WORK / max(1, relaxation.space.columns))))
    order = np.argsort(-total, kind="stable")[:most]
    return np.asarray(order[total[order] > 0])


def _forces(relaxation: PairRelaxation, rows: Index, place: Index, groups: int) -> Array:
    """Each group's force [groups, h c], from its own rows."""
    shape = (groups, relaxation.rows.size)
    # [m, r] with y_r at a group's own rows: times the rows it is sum_r y_r a_r, of which x is the first part.
    share = sp.csr_array((relaxation.duals[rows], (place[rows], rows)), shape=shape)
    return np.asarray((share @ relaxation.rows.matrix)[:, : relaxation.space.columns].toarray())


def _opposition(force: Array) -> Array:
    size = np.linalg.norm(force, axis=1) + 1e-12
    direction = force / size[:, None]
    # Cosines [m, m]. Opposed forces count whole, those that agree less, each by the smaller of the two.
    angle = direction @ direction.T
    smaller: Array = np.minimum.outer(size, size) / size.max(initial=1e-12)
    return np.asarray(np.where(angle < 0, -angle, SAME * angle) * smaller)
