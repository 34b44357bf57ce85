"""precision_floor: of what is called a class, a share has to be of it and right.

For class c with the share v, over samples n of weight w_n:

    (1 - v) sum_{n in c} w_n (1 - z_n)  >=  v sum_{n not in c} w_n u_n

z_n says that n is wrong, u_n that n counts as called c. That is so unless a class k beats c by EPSILON; v_nk = 1 lets k
off, so `u_n >= sum_k v_nk - (number of k) + 1`. Both z and u may be 1 without need, which only makes the row harder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.constraints import asked_classes
from shared.contracts import Constraint
from shared.losses import SLACK
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.core.requirements import Requirements, beating
from solver_service.milp.formulation.constraints.counting import wrong_at, wrong_part
from solver_service.milp.formulation.constraints.parts import Part, plain_rows, sparse
from solver_service.milp.presolve.screening import screen


@dataclass(frozen=True, eq=False)
class Precision:
    """A class's floor: its own samples [n], others that are called it all over the box [n], and rows that decide."""

    own: Mask
    always: Mask
    open: Requirements
    share: float


def precisions_of(problem: Problem, constraint: Constraint) -> list[Precision]:
    """The floors of a constraint's classes; samples that the box decides have no rows."""
    share = constraint.value - SLACK
    if share <= 0:
        return []
    classes = problem.targets.reshape(len(problem.scores))
    found = []
    for number in asked_classes(constraint, problem.snapshot):
        # A row, and a group, for every (sample not of c, class k): met where k beats c.
        rows = beating(problem, number)
        screened = screen(rows)
        # By row: lost where k can never beat c, undecided where it may, else k beats c all over the box.
        undecided = np.zeros(rows.groups, dtype=bool)
        undecided[screened.group_of] = True
        maybe = np.asarray(classes != number)
        maybe[rows.sample[~screened.lost & ~undecided]] = False  # beaten all over the box
        kept = maybe[screened.requirements.sample]
        # What is left may beat c or not: K_n rows for a sample, those that never can are not counted.
        left = screened.requirements.select(kept)
        left = replace(left, group=np.arange(left.rows), cost=np.zeros(left.rows))
        # [n]: no class can beat c there, so the sample is called c wherever x goes.
        always = maybe.copy()
        always[left.sample] = False
        found.append(Precision(np.asarray(classes == number), always, left, share))
    return found


def precision_parts(problem: Problem, precision: Precision, wrong: Index, lost: Mask, first: int) -> Sequence[Part]:
    """The parts of one floor, columns from `first` on; `wrong` [n] are the columns z_n, -1 where the box decides."""
    rows = precision.open
    beats = first + np.arange(rows.rows)
    # place [r] is the number of a row's sample among `samples` [s]; rivals [s] is K_n.
    samples, place = np.unique(rows.sample, return_inverse=True)
    called = first + rows.rows + np.arange(samples.size)
    rivals = np.bincount(place, minlength=samples.size).astype(np.float64)
    total = first + rows.rows + samples.size
    # u_n - sum_k b_nk >= 1 - K_n
    matrix = sparse(
        samples.size,
        total,
        (np.ones(samples.size), np.arange(samples.size), called),
        (-np.ones(rows.rows), place, beats),
    )

    def complete(change: Array) -> Array:
        unbeaten = np.bincount(place, weights=wrong_at(problem, rows, change), minlength=samples.size)
        return np.asarray(np.maximum(0.0, unbeaten - rivals + 1))

    calling = Part(
        rows=plain_rows(matrix, 1.0 - rivals),
        complete=complete,
        objective=np.zeros(samples.size),
        lower=np.zeros(samples.size),
        upper=np.ones(samples.size),
        sample=samples,
    )
    floor = _share_row(problem, precision, wrong, lost, samples, called, total)
    return [wrong_part(problem, rows, beats), calling, floor]


def _share_row(
    problem: Problem, precision: Precision, wrong: Index, lost: Mask, samples: Index, called: Index, total: int
) -> Part:
    """The floor itself, in shares of the weight of all samples that it may count."""
    # -(1 - v) sum_own w z - v sum_open w u  >=  v (w of those always called c) - (1 - v) (w of own, not lost)
    counted = precision.own | precision.always
    counted[samples] = True
    weights = problem.weights / (float(problem.weights[counted].sum()) or 1.0)
    own = np.flatnonzero(precision.own & (wrong >= 0))
    true = (1 - precision.share) * float(weights[precision.own & ~lost].sum())
    false = precision.share * float(weights[precision.always].sum())
    row = sparse(
        1,
        total,
        (-(1 - precision.share) * weights[own], np.zeros(own.size, dtype=np.int64), wrong[own]),
        (-precision.share * weights[samples], np.zeros(samples.size, dtype=np.int64), called),
    )
    return Part(plain_rows(row, np.array([false - true])))
