"""One solve under constraints beyond signs: searches that keep them, bounds that know them, and a branching solver."""

import math
from dataclasses import replace

from shared.contracts import SolveStatus
from shared.objectives import TRIMMED
from solver_service.milp.backends.outcome import Outcome
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.solution import is_integral, safe_bound
from solver_service.milp.final_layer.constrained_search import best_solution, polish_best, taker
from solver_service.milp.final_layer.convex.rounded_fits import fit_rounded
from solver_service.milp.final_layer.convex.splicing import splice_counts
from solver_service.milp.final_layer.infeasible import blame
from solver_service.milp.final_layer.job import ROUNDS, Job, allowance, ending_of, honest, options_of, too_large, why
from solver_service.milp.final_layer.job_model import JobModel
from solver_service.milp.final_layer.linear import solve_linear
from solver_service.milp.final_layer.report import Ending
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.heuristics.walks.walk import WALKED
from solver_service.milp.rounding.into_box import rounding_errors

FEASIBLE_SHARE, CONSTRAINED_SHARE = 0.3, 0.85
"""Of the time for searches until weights keep all constraints, and of what is left then for better ones."""
SMALL_SHARE, SMALL_S, TINY_S = 0.7, 1.5, 0.1
"""Searches on small and tiny models that find nothing for so many seconds give way to a solver."""
CONSTRAINED_S, LONG_SHARE = 20.0, 0.25
"""Where a model fits they get no more than these seconds, or this share if it is more: then branching finds more."""
STANDS_IN = (*WALKED, *TRIMMED)
"""Objectives that are not convex, for which another one looks for nonzeros."""
EARLY_S = 4.0
"""A limit from which on bounds get a part of the time before better solutions are looked for."""
POLISHED_SHARE = 0.5
"""Of that time, before decisions are kept and the rest is found by linear programs."""
CONSTRAINED_ROUNDS = 5
"""Who takes over from a solver that gives up under constraints."""
STRICT_ROOM, ROUNDINGS, ROW_ROOM = 1e-5, 4, 3e-6
"""How far from the line a second search keeps right and wrong apart, when rounding loses what the first one found: in
scores, or where this is more in what rounding moves a score, or in units of the model's rows (a solver's tolerance)."""


def solve_constrained(job: Job) -> Ending:
    """Feasible first, then better; bounds that know the constraints, and a solver that branches."""
    model, ending = JobModel(job), None
    if job.spec.objective in STANDS_IN:
        splice_counts(job)
    fit_rounded(job)
    _make_feasible(job, model)
    if not (job.incumbents.feasible or model.branching_pays()):
        job.improver.run(job.budget(), enough=True)
    # There is nothing to bound while nothing is feasible; a small model's cuts help to prove that.
    bounded = job.incumbents.feasible or model.small
    if job.spec.limits.time_s >= EARLY_S and bounded:
        model.bound()
    _improve(job, model)
    if model.linear and job.screened.requirements.rows and not (job.proven or job.budget().over):
        ending = solve_linear(job)
    if bounded or job.incumbents.feasible:
        model.bound_to_the_end()
    ending = ending or replace(ending_of(job, why(job)), build_s=job.control.elapsed)
    best = job.incumbents.best.objective
    closed = job.incumbents.feasible and best - job.incumbents.bound <= allowance(job)
    if job.proven or closed or job.control.stopped or job.budget().over:
        return ending
    if not model.branching_pays():
        job.improver.run(job.budget().share(POLISHED_SHARE))
        if model.bounded:
            model.keep_decisions()
        job.improver.run(job.budget())
        note = "the model does not fit `limits.memory_mb`; heuristics only"
        status, notes = (SolveStatus.MEMORY_LIMIT, (note,)) if too_large(job) else (why(job), ())
        return replace(ending, status=status, notes=notes)
    learnt = model.learnt()
    return ending if job.budget().over else _branch_under_constraints(job, learnt)


def _make_feasible(job: Job, model: JobModel) -> None:
    """Searches until weights keep all constraints; where they find none, a solver has to look."""
    if job.spec.limits.nodes is None:
        first = job.budget().share(FEASIBLE_SHARE)
        first = replace(first, until=min(first.until, job.control.elapsed + _patience(model)))
        job.improver.run(first, enough=True)


def _patience(model: JobModel) -> float:
    return TINY_S if model.tiny else SMALL_S if model.small else math.inf


def _improve(job: Job, model: JobModel) -> None:
    """Searches that never leave what is feasible."""
    if job.spec.limits.nodes is not None:
        job.improver.run(replace(job.budget(), rounds=CONSTRAINED_ROUNDS))
    elif job.incumbents.feasible:
        model.search_around()
        share = SMALL_SHARE if model.small else CONSTRAINED_SHARE if model.bounded else 1.0
        better = replace(job.budget().share(share), patience=_patience(model))
        if not model.bounded:
            job.improver.run(better)
            return
        better = replace(better, until=min(better.until, max(CONSTRAINED_S, LONG_SHARE * job.deadline)))
        for part in (better.share(POLISHED_SHARE), better):
            job.improver.run(part)
            model.keep_decisions()


def _branch_under_constraints(job: Job, built: ConstrainedModel) -> Ending:
    problem, incumbents = job.problem, job.incumbents
    began, whole = job.control.elapsed, Budget(job.control, job.spec.limits.time_s, ROUNDS)
    take = taker(problem, built, incumbents, lambda: whole.over)
    polish_best(problem, built, incumbents, lambda: job.budget().over)

    def search(model: LinearModel) -> Outcome:
        start = best_solution(problem, built, incumbents)
        return milp_solver(job.spec.solver.backend)(model, options_of(job), job.control, take, start)

    outcome, strict = search(built.model), None
    notes: tuple[str, ...] = ()
    if not outcome.start_accepted:
        notes = ("the solver's check rejected the start; it searched without one",)
    if outcome.status is not SolveStatus.INFEASIBLE:
        incumbents.raise_bound(safe_bound(outcome.bound, integral=is_integral(problem)))
    missed = incumbents.best.objective > outcome.bound + allowance(job)
    if outcome.status is SolveStatus.OPTIMAL and missed and not job.budget().over:
        strict = search(built.tightened(_strict_room(job, built)))
        polish_best(problem, built, incumbents, lambda: whole.over)
    status = honest(outcome)
    if not incumbents.feasible:
        status, notes = _nothing_found(job, outcome, strict, _strict_room(job, built))
    return replace(
        ending_of(job, status, model=built.model, notes=notes),
        complete=outcome.status is SolveStatus.OPTIMAL,
        nodes=outcome.nodes,
        build_s=began,
        presolve_s=outcome.presolve_s,
        solve_s=outcome.solve_s,
    )


def _strict_room(job: Job, built: ConstrainedModel) -> float:
    best = job.incumbents.best
    rounding = float(rounding_errors(job.problem, best.weight, best.bias).max(initial=0.0))
    return max(STRICT_ROOM, ROUNDINGS * rounding, ROW_ROOM * built.largest_scale)


def _nothing_found(
    job: Job, outcome: Outcome, strict: Outcome | None, room: float
) -> tuple[SolveStatus, tuple[str, ...]]:
    """Why no weights keep all constraints, as far as it is known."""
    if outcome.status is SolveStatus.INFEASIBLE:
        return SolveStatus.INFEASIBLE, tuple(blame(job.problem.snapshot, job.spec, job.budget()))
    if strict is not None and strict.status is SolveStatus.INFEASIBLE and room <= STRICT_ROOM:
        note = f"no weights keep all constraints, unless a sample is within {room:g} of being both right and wrong"
        return SolveStatus.INFEASIBLE, (note,)
    if outcome.status in (SolveStatus.OPTIMAL, SolveStatus.GAP_REACHED):
        return SolveStatus.TIME_LIMIT, (
            "weights that keep all constraints exist, but none survived rounding to float32",
        )
    return outcome.status, ("no weights that keep all constraints were found before the limit",)
