"""The words and numbers of a result: status, bound, sizes and timings, as they go on the wire."""

from dataclasses import dataclass

import numpy as np

from shared.constraints import Violation, movement_cost, violations
from shared.contracts import Backend, JobResult, JobSpec, ObjectiveReport, Sizes, SolveStatus, Suspect, Timings, gap
from shared.objectives import EPSILON, label_margins_at, outputs, sample_weights
from shared.snapshot import Snapshot, regression_targets
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.core.solution import Solution
from solver_service.milp.core.suspects import suspects_of
from solver_service.milp.formulation.compact import columns_of
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.presolve.aggregation import Aggregation
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Candidate, Incumbents

AS_GOOD = 1.05
"""Solutions within this factor of the best say together which samples cannot be had."""
LOOKED_AT = 20_000_000
"""Entries of inputs that are read again for that, at most, unless the best solution alone takes more."""
NOT_TO_BE_HAD = "of the {final:.6g} that are left at least {bound:.6g} provably cannot be had in this region"
COMPLETE = "the search is complete; the gap that is left is within the solver's tolerances, not the recomputed value's"


@dataclass(frozen=True, eq=False)
class Ending:
    """Why the work ended when nothing better was proven, who did it, and what it took.

    `allowance` is how far above its bound a proven optimum may stay; `complete` says that the solver is done.
    """

    status: SolveStatus
    backend: Backend
    sizes: Sizes
    allowance: float
    nodes: int = 0
    complete: bool = False
    build_s: float = 0.0
    presolve_s: float = 0.0
    solve_s: float = 0.0
    notes: tuple[str, ...] = ()


def sizes_of(problem: Problem, folding: Aggregation, screened: Screened, model: LinearModel | None) -> Sizes:
    """The size of the model; where none was built, of the one that the requirements describe."""
    left = screened.requirements
    removed = Sizes(
        screened_samples=problem.snapshot.samples - screened.samples,
        screened_rows=screened.rows,
        zero_columns=folding.zero_columns,
        merged_columns=folding.merged_columns,
        halved_columns=folding.halved_columns,
    )
    if model is not None:
        return removed.model_copy(
            update={
                "rows": model.rows,
                "columns": model.columns,
                "binaries": int(model.integer.sum()),
                "nonzeros": int(model.matrix.nnz),
            }
        )
    columns = columns_of(folding.space, left)
    return removed.model_copy(
        update={
            "rows": left.rows,
            "columns": columns.total,
            "binaries": int((columns.give_up >= 0).sum()),
            "nonzeros": nonzeros(folding.space, left) + left.rows * (2 if left.style == "capped" else 1),
        }
    )


def solution_of(snapshot: Snapshot, spec: JobSpec, incumbents: Incumbents, ending: Ending, total_s: float) -> Solution:
    """Put the result together; everything in it is recomputed from the weights returned."""
    best, start = incumbents.best, incumbents.start
    # Without feasible weights the snapshot's stand in, and there is nothing to bound.
    final, bound = (best.objective, max(0.0, incumbents.bound)) if incumbents.feasible else (start, 0.0)
    changed = int(np.count_nonzero(best.weight != snapshot.weight))
    if best.bias is not None and snapshot.bias is not None:
        changed += int(np.count_nonzero(best.bias != snapshot.bias))
    distance = gap(final, bound)
    status = _status(final, bound, distance, spec, ending) if incumbents.feasible else ending.status
    broken = violations(spec.constraints, snapshot, snapshot.weight, snapshot.bias)
    unproven = ending.complete and status is not SolveStatus.OPTIMAL
    result = JobResult(
        objective=ObjectiveReport(name=spec.objective, start=start, final=final, bound=bound, gap=distance),
        status=status,
        feasible=incumbents.feasible,
        improved=incumbents.feasible and (final < start or bool(broken)),
        changed_weights=changed,
        timings=Timings(build_s=ending.build_s, presolve_s=ending.presolve_s, solve_s=ending.solve_s, total_s=total_s),
        sizes=ending.sizes,
        nodes=ending.nodes,
        incumbents=incumbents.history,
        backend=ending.backend,
        suspects=_suspects(snapshot, spec, incumbents),
        notes=[
            *ending.notes,
            *([COMPLETE] if unproven else []),
            *([NOT_TO_BE_HAD.format(bound=bound, final=final)] if 0 < bound < final else []),
            *_constraint_notes(snapshot, spec, incumbents, broken),
        ],
    )
    return Solution(result, best.weight, best.bias)


def _suspects(snapshot: Snapshot, spec: JobSpec, incumbents: Incumbents) -> list[Suspect]:
    """The samples that the best solutions give up on, where the objective can give up on any."""
    if spec.objective not in ("zero_one", "ramp", "outliers") or snapshot.task == "multilabel":
        return []
    best = incumbents.best.objective
    found = []
    for candidate in list(incumbents.good)[: -1 - max(1, LOOKED_AT // snapshot.inputs.size) : -1]:
        if candidate.objective <= AS_GOOD * best:
            found.append(_room(snapshot, spec, candidate))
    counted = np.flatnonzero(sample_weights(snapshot) > 0)
    need = EPSILON if spec.objective == "zero_one" else 0.0
    return suspects_of([margin[counted] for margin in found], index=counted, need=need)


def _room(snapshot: Snapshot, spec: JobSpec, candidate: Candidate) -> Array:
    """By how much each sample [N] is right: its margin, or what is left of the tolerance."""
    if snapshot.task == "regression":
        error = np.abs(outputs(snapshot, candidate.weight, candidate.bias) - regression_targets(snapshot))
        return np.asarray((spec.tolerance or 0.0) - error.max(axis=1))
    return label_margins_at(snapshot, candidate.weight, candidate.bias)[:, 0]


def _constraint_notes(snapshot: Snapshot, spec: JobSpec, incumbents: Incumbents, broken: list[Violation]) -> list[str]:
    """What constraints make of the values: a snapshot that breaks some, and the movement that is paid for."""
    notes = []
    if broken:
        names = ", ".join(violation.name for violation in broken)
        kept = "the weights returned keep all" if incumbents.feasible else "the weights returned are the snapshot's own"
        notes.append(f"the snapshot breaks {names}; {kept}")
    if any(constraint.type == "movement_cost" for constraint in spec.constraints):
        paid = movement_cost(spec.constraints, snapshot, incumbents.best.weight)
        notes.append(f"the objective's values include the cost of movement, {paid:.6g} of the final one")
    return notes


def _status(final: float, bound: float, distance: float, spec: JobSpec, ending: Ending) -> SolveStatus:
    if final <= bound + ending.allowance:
        return SolveStatus.OPTIMAL
    if distance <= spec.limits.gap:
        return SolveStatus.GAP_REACHED
    return ending.status
