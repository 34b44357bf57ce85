"""Constraints on samples: binaries that count wrong samples, and rows over their shares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import scipy.sparse as sp

from shared.constraints import ON_SAMPLES, floors, gap_groups
from shared.contracts import Constraint
from shared.losses import SLACK
from shared.objectives import Objective, sample_weights
from solver_service.milp.core.problem import Array, Index, Mask, Problem
from solver_service.milp.core.requirements import Requirements, requirements_of
from solver_service.milp.formulation.compact import WIDE
from solver_service.milp.formulation.constraints.counting import wrong_part
from solver_service.milp.formulation.constraints.on_precision import Precision, precision_parts, precisions_of
from solver_service.milp.formulation.constraints.parts import Part, Rows, plain_rows, sparse
from solver_service.milp.formulation.model import widened
from solver_service.milp.formulation.rows import change_rows
from solver_service.milp.presolve.screening import Screened, screen

WHOLE = 1e6
"""Sums of whole weights up to this stay as they are in rows, which are the better for solvers."""


@dataclass(frozen=True, eq=False)
class Floor:
    """The members' [n] wrong weight is at most `most`."""

    members: Mask
    most: float


@dataclass(frozen=True, eq=False)
class Balance:
    """The wrong shares of two groups [n] differ by at most `most`."""

    first: Mask
    second: Mask
    most: float


@dataclass(frozen=True, eq=False)
class Shares:
    """What constraints ask of the right samples, screened: samples that the box decides are counted, not modelled."""

    floors: tuple[Floor, ...]
    balances: tuple[Balance, ...]
    precisions: tuple[Precision, ...]
    screened: Screened

    @property
    def requirements(self) -> Requirements:
        """The margins of the samples that are counted and still open."""
        return self.screened.requirements


def shares_of(problem: Problem, constraints: Sequence[Constraint]) -> Shares | None:
    """State the constraints on samples; None when there is none."""
    wanted = [constraint for constraint in constraints if constraint.type in ON_SAMPLES]
    if not wanted:
        return None
    kept, weights = sample_weights(problem.snapshot) > 0, problem.weights
    limits, balances, precisions = [], [], []
    for constraint in wanted:
        if constraint.type == "group_rate_gap":
            groups = [members[kept] for members in gap_groups(constraint, problem.snapshot)]
            # Every two groups, so that any number of them stays within the gap.
            balances += [Balance(first, second, constraint.value) for first, second in combinations(groups, 2)]
        elif constraint.type == "precision_floor":
            precisions += precisions_of(problem, constraint)
        else:
            for members in floors(constraint, problem.snapshot):
                limits.append(Floor(members[kept], _most_wrong(weights[members[kept]], constraint.value)))
    # [n]: what no constraint counts needs no binary.
    counted = np.zeros(weights.size, dtype=bool)
    for members in _members(limits, balances, precisions):
        counted |= members
    # The rows of zero_one, whatever the objective is: right means to win by eps.
    everything = requirements_of(replace(problem, objective=Objective("zero_one")))
    screened = screen(everything.select(counted[everything.group]))
    return Shares(tuple(limits), tuple(balances), tuple(precisions), screened)


def _members(limits: Sequence[Floor], balances: Sequence[Balance], precisions: Sequence[Precision]) -> Iterator[Mask]:
    """The sets of samples [n] of which it matters whether they are right."""
    yield from (floor.members for floor in limits)
    for balance in balances:
        yield from (balance.first, balance.second)
    yield from (precision.own for precision in precisions)


def _most_wrong(weights: Array, share: float) -> float:
    """The weight that may be wrong when a share has to be right; a whole number where the weights are."""
    most = float(weights.sum()) * (1 - share + SLACK)
    return float(np.floor(most)) if (weights == np.round(weights)).all() else most


def _size(weights: Array) -> float:
    """What a floor's row is divided by: its own weight, unless that is a whole number of moderate size already."""
    total = float(weights.sum())
    return 1.0 if (weights == np.round(weights)).all() and total <= WHOLE else total


def share_parts(problem: Problem, shares: Shares, *, first: int, own: Index | None) -> list[Part]:
    """Binaries from column `first` on, unless the objective's `own` [groups] count the same; then all rows."""
    parts = []
    wrong = own
    if wrong is None:
        wrong = first + np.arange(shares.requirements.groups)
        parts.append(wrong_part(problem, shares.requirements, wrong))
        first += wrong.size
    if shares.balances:
        witnesses = _witness_part(problem, shares, wrong, first)
        parts.append(witnesses)
        first += witnesses.lower.size
    # [n]: the column z of an open sample, -1 where the box decides.
    decided = np.full(problem.cost.size, -1, dtype=np.int64)
    decided[shares.screened.group_of] = wrong
    for precision in shares.precisions:
        more = precision_parts(problem, precision, decided, shares.screened.lost, first)
        parts += more
        first += sum(part.lower.size for part in more)
    return [*parts, *_share_rows(problem, shares, wrong, first)]


def _witness_part(problem: Problem, shares: Shares, wrong: Index, first: int) -> Part:
    """A rate gap bounds from both sides, so a wrong sample names a rival that wins: one binary v_nk per open rival."""
    # [n]: only samples in a gap need witnesses; floors bound from one side.
    balanced = np.zeros(problem.cost.size, dtype=bool)
    for balance in shares.balances:
        balanced |= balance.first | balance.second
    requirements = shares.requirements.select(balanced[shares.requirements.sample])
    columns = first + np.arange(requirements.rows)
    total = first + columns.size
    naming = _naming_rows(requirements, wrong, columns, total)
    losing = _losing_rows(problem, requirements, columns, total)
    joined = sp.csr_array(sp.vstack([naming.matrix, losing.matrix], format="csr"))

    def complete(change: Array) -> Array:
        values = requirements.values(problem, change)
        worst = np.full(requirements.groups, np.inf)
        np.minimum.at(worst, requirements.group, values)
        # The rival that wins by most bears witness; of equal ones all do.
        loses = (values <= worst[requirements.group]) & (values < requirements.need)
        return loses.astype(np.float64)

    return Part(
        rows=Rows(
            matrix=joined,
            lower=np.concatenate([naming.lower, losing.lower]),
            strict=np.concatenate([naming.strict, losing.strict]),
            switch=np.concatenate([naming.switch, losing.switch]),
            on=np.concatenate([naming.on, losing.on]),
            tying=np.concatenate([naming.tying, losing.tying]),
        ),
        complete=complete,
        objective=np.zeros(columns.size),
        lower=np.zeros(columns.size),
        upper=np.ones(columns.size),
        integer=True,
        sample=requirements.sample,
    )


def _naming_rows(requirements: Requirements, wrong: Index, columns: Index, total: int) -> Rows:
    """`sum_k v_nk >= z_n`."""
    groups, place = np.unique(requirements.group, return_inverse=True)
    matrix = sparse(
        groups.size,
        total,
        (np.ones(columns.size), place, columns),
        (-np.ones(groups.size), np.arange(groups.size), wrong[groups]),
    )
    return plain_rows(matrix, np.zeros(groups.size))


def _losing_rows(problem: Problem, requirements: Requirements, columns: Index, total: int) -> Rows:
    """`t_nk <= hi_nk - (hi_nk - eps) v_nk` (docs/formulations/constraints.md, "Constraints on samples")."""
    rows = np.arange(requirements.rows)
    # -A x - (hi - eps) v >= t0 - hi = -q, divided by its scale: t <= eps at v = 1, the reach at v = 0.
    above = requirements.high - requirements.need
    scale = np.maximum(1.0, above / WIDE["count"])
    switches = sparse(rows.size, total, (-above / scale, rows, columns))
    moves = widened(change_rows(problem, requirements, -scale), total)
    return Rows(
        matrix=sp.csr_array(moves + switches),
        lower=-requirements.reach / scale,
        strict=1.0 / scale,
        switch=columns,
        on=np.ones(rows.size),
        tying=np.zeros(rows.size, dtype=bool),
    )


def _share_rows(problem: Problem, shares: Shares, wrong: Index, total: int) -> list[Part]:
    """What the constraints say of the shares, in terms of z."""
    sample, cost, lost = shares.screened.group_of, problem.weights, shares.screened.lost
    rows, lower = [], []

    def add(weights: Array, least: float) -> None:
        """`sum weights_n (wrong n) >= least`, where screening has decided some."""
        # Lost samples are wrong wherever x goes: what they add moves to the right side.
        row = np.zeros(total)
        row[wrong] = weights[sample]
        rows.append(sp.csr_array(row[None, :]))
        lower.append(least - float(weights[lost].sum()))

    for floor in shares.floors:
        size = _size(cost[floor.members])
        add(-cost / size * floor.members, -floor.most / size)
    for balance in shares.balances:
        wrong_share = [cost * members / cost[members].sum() for members in (balance.first, balance.second)]
        # The difference of the wrong shares from above and from below.
        for sign in (1.0, -1.0):
            add(sign * (wrong_share[0] - wrong_share[1]), -balance.most - SLACK)
    return [Part(plain_rows(sp.csr_array(sp.vstack(rows, format="csr")), np.array(lower)))] if rows else []
