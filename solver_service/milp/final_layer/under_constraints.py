"""One solve under constraints beyond signs: searches that keep them, bounds that know them, and a branching solver."""

import math
from dataclasses import replace

from shared.contracts import SolveStatus
from solver_service.errors import SolverError
from solver_service.milp.backends.outcome import Outcome
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.solution import is_integral, safe_bound
from solver_service.milp.final_layer.bounding import bound_by_blocks, bound_by_conflicts, relaxed
from solver_service.milp.final_layer.constrained_search import best_solution, polish_best, taker
from solver_service.milp.final_layer.infeasible import blame
from solver_service.milp.final_layer.job import ROUNDS, Job, allowance, ending_of, honest, options_of, too_large, why
from solver_service.milp.final_layer.linear import solve_linear
from solver_service.milp.final_layer.report import Ending
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel, constrained_model
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.rounding.into_box import rounding_errors

FEASIBLE_SHARE, CONSTRAINED_SHARE = 0.3, 0.85
"""Of the time for searches until weights keep all constraints, and of what is left then for better ones."""
SMALL, SMALL_SHARE, SMALL_S = 20_000, 0.7, 1.5
TINY, TINY_S = 2_000, 0.1
"""A model of so few coefficients is branched on with success, and proven infeasible: searches that find nothing for so
many seconds give way to it."""
CONSTRAINED_S, LONG_SHARE = 20.0, 0.25
"""Where a model fits they get no more than these seconds, or this share if it is more: then branching finds more."""
MODELLED_PER_S = 150_000
"""A solver that branches gets nowhere with more coefficients than this for each second."""
POLISHED_SHARE, PAYS = 0.5, 1e-3
"""Of that time, before decisions are kept; and the least gain, as a share, after which they are kept again."""
CONSTRAINED_ROUNDS = 5
BRANCHED_PER_S = 30_000
"""Of a model with more coefficients for each second that is left a solver sees few nodes."""
BLOCK_SHARE, UNBRANCHED_SHARE = 0.6, 0.9
"""Of the time left after the relaxation, for blocks of samples, where a model is not small; where nobody branches."""
SECOND = {"scip": "highs", "highs": "scip"}
"""Who takes over from a solver that gives up under constraints."""
STRICT_ROOM, ROUNDINGS, ROW_ROOM = 1e-5, 4, 3e-6
"""How far from the line a second search keeps right and wrong apart, when rounding loses what the first one found: in
scores, or where this is more in what rounding moves a score, or in units of the model's rows (a solver's tolerance)."""


def solve_constrained(job: Job) -> Ending:
    """Feasible first, then better; then bounds, and a solver that branches."""
    built, ending = None, None
    _improve(job)
    if job.screened.requirements.rows and not (job.proven or job.budget().over):
        if job.screened.requirements.style == "linear":
            ending = solve_linear(job)
        elif _modelled(job):
            built = _bounded(job)
    ending = ending or replace(ending_of(job, why(job)), build_s=job.control.elapsed)
    best = job.incumbents.best.objective
    closed = job.incumbents.feasible and best - job.incumbents.bound <= allowance(job)
    if job.proven or closed or job.control.stopped or job.budget().over:
        return ending
    if not (_modelled(job) and _branching_pays(job)):
        job.improver.run(job.budget())
        note = "the model does not fit `limits.memory_mb`; heuristics only"
        status, notes = (SolveStatus.MEMORY_LIMIT, (note,)) if too_large(job) else (why(job), ())
        return replace(ending, status=status, notes=notes)
    return _branch_under_constraints(job, built or _model_of(job))


def _model_of(job: Job) -> ConstrainedModel:
    return constrained_model(job.problem, job.screened, NO_CUTS, job.problem.constraints)


def _bounded(job: Job) -> ConstrainedModel:
    """Bounds that know the constraints, and the model with what they have learnt."""
    conflicts, built = bound_by_conflicts(job), _model_of(job)
    relaxation = relaxed(job, conflicts, built.extension)
    if _size(job) > SMALL:
        bound_by_blocks(job, relaxation, BLOCK_SHARE if _branching_pays(job) else UNBRANCHED_SHARE)
    learnt = relaxation.learnt
    return built.plus(learnt.matrix, learnt.lower)


def _improve(job: Job) -> None:
    """Searches that never leave what is feasible; where they find nothing that is, a solver has to look."""
    if job.spec.limits.nodes is not None:
        job.improver.run(replace(job.budget(), rounds=CONSTRAINED_ROUNDS))
        return
    small = _modelled(job) and _size(job) <= SMALL
    tiny = small and _size(job) <= TINY
    first = job.budget().share(FEASIBLE_SHARE)
    if small:
        first = replace(first, until=min(first.until, job.control.elapsed + (TINY_S if tiny else SMALL_S)))
    job.improver.run(first, enough=True)
    if job.incumbents.feasible:
        share = SMALL_SHARE if small else CONSTRAINED_SHARE if _modelled(job) else 1.0
        patience = math.inf if not small else TINY_S if tiny else SMALL_S
        better = replace(job.budget().share(share), patience=patience)
        if _modelled(job):
            better = replace(better, until=min(better.until, max(CONSTRAINED_S, LONG_SHARE * job.deadline)))
            job.improver.run(better.share(POLISHED_SHARE))
            _keep_decisions(job)
        job.improver.run(better)


def _keep_decisions(job: Job) -> None:
    """What the best solution decides is kept, and a linear program finds the rest, as often as that gains."""
    incumbents, built = job.incumbents, None
    while job.screened.requirements.style == "capped" and incumbents.feasible and not job.budget().over:
        before, built = incumbents.best.objective, built or _model_of(job)
        polish_best(job.problem, built, incumbents, lambda: job.budget().over)
        incumbents.tell("decisions kept, a linear program for the rest")
        if before - incumbents.best.objective <= PAYS * before:
            return


def _modelled(job: Job) -> bool:
    """Whether the model fits the memory and the time."""
    left = job.deadline - job.control.elapsed
    return not too_large(job) and (job.spec.limits.nodes is not None or _size(job) <= MODELLED_PER_S * left)


def _branching_pays(job: Job) -> bool:
    """Whether a solver that branches would come beyond its first nodes; it has to look where nothing is feasible."""
    if job.spec.limits.nodes is not None or not job.incumbents.feasible:
        return True
    linear, left = job.screened.requirements.style == "linear", job.deadline - job.control.elapsed
    return linear or _size(job) <= BRANCHED_PER_S * left


def _size(job: Job) -> int:
    """About how many coefficients the model with all constraints has."""
    return 3 * nonzeros(job.space, job.screened.requirements)


def _branch_under_constraints(job: Job, built: ConstrainedModel) -> Ending:
    problem, incumbents = job.problem, job.incumbents
    began, whole = job.control.elapsed, Budget(job.control, job.spec.limits.time_s, ROUNDS)
    take = taker(problem, built, incumbents, lambda: whole.over)
    polish_best(problem, built, incumbents, lambda: job.budget().over)

    def search(model: LinearModel) -> Outcome:
        start = best_solution(problem, built, incumbents)
        try:
            return milp_solver(job.spec.solver.backend)(model, options_of(job), job.control, take, start)
        except SolverError:
            # Numerical trouble of one solver is seldom that of the other.
            options = replace(options_of(job), params={})
            return milp_solver(SECOND[job.spec.solver.backend])(model, options, job.control, take, start)

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
