"""Samples that every good solution gives up on: what a user should look at first, for a label may be wrong."""

from collections.abc import Sequence

import numpy as np

from shared.contracts import Suspect
from solver_service.milp.core.problem import Array, Index

MOST = 100
"""How many suspects are told, at most."""
AGREED = 0.8
"""Share of the good solutions that have to give a sample up, the best one among them."""


def suspects_of(
    margins: Sequence[Array], *, index: Index | None = None, need: float = 0.0, agreed: float = AGREED
) -> list[Suspect]:
    """The samples whose margin is below `need` in the best solution and in a share `agreed` of all good ones.

    `margins` are each solution's margins `t_n = min_k s_y - s_k` [n], the best solution first; `need` is 0 for a ramp,
    which gives a sample up whose margin is negative, and the threshold for a count. `index` [n] are the samples'
    places in the snapshot (None: their places here). Those that most solutions agree on come first, of these the ones
    with the lowest margin in the best solution; equal ones in the order of the snapshot.
    """
    if not margins:
        return []
    table = np.stack(margins)
    places = np.arange(table.shape[1]) if index is None else index
    given_up = table < need
    share = given_up.mean(axis=0)
    found = np.flatnonzero(given_up[0] & (share >= agreed))
    order = found[np.lexsort((places[found], table[0, found], -share[found]))][:MOST]
    return [Suspect(index=int(places[n]), margin=float(table[0, n]), share=float(share[n])) for n in order]
