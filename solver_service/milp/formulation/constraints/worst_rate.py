"""worst_class and worst_group: one column e for the largest error rate, and a row for each cell's.

min e   with   e >= sum_{n in cell} (w_n / W_cell) z_n   for every cell, z_n = 1 where n is wrong
"""

import numpy as np

from shared.objectives import cells, sample_weights
from solver_service.milp.core.problem import Array, Index, Problem
from solver_service.milp.formulation.constraints.counting import wrong_at
from solver_service.milp.formulation.constraints.parts import Part, plain_rows, sparse
from solver_service.milp.presolve.screening import Screened


def worst_part(problem: Problem, screened: Screened, wrong: Index, *, first: int) -> Part:
    """The column e at `first`; `wrong` [groups] are the columns z of the samples that are left."""
    kept = sample_weights(problem.snapshot) > 0
    _, cell = np.unique(cells(problem.objective, problem.snapshot)[kept], return_inverse=True)
    # [n]: w_n / W_cell, what a wrong sample adds to its cell's rate; sure [cells] is added all over the box.
    share = problem.weights / np.bincount(cell, weights=problem.weights)[cell]
    sure = np.bincount(cell, weights=share * screened.lost).astype(np.float64)
    sample, count = screened.group_of, sure.size
    # e - sum_{n open in cell} share_n z_n >= sure_cell
    matrix = sparse(
        count,
        first + 1,
        (np.ones(count), np.arange(count), np.full(count, first)),
        (-share[sample], cell[sample], wrong),
    )

    def complete(change: Array) -> Array:
        still = share[sample] * wrong_at(problem, screened.requirements, change)
        return np.array([(sure + np.bincount(cell[sample], weights=still, minlength=count)).max()])

    return Part(
        rows=plain_rows(matrix, sure),
        complete=complete,
        objective=np.ones(1),
        lower=np.zeros(1),
        upper=np.ones(1),
    )
