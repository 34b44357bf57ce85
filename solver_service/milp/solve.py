"""One job from snapshot to result: screen, start, improve, prove, recompute; Celery and Redis are out of sight."""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy

from shared.contracts import Backend, JobSpec, SolveStatus
from shared.snapshot import FloatArray, Snapshot
from solver_service.errors import SolverError
from solver_service.milp.backends.outcome import MilpOptions, Outcome
from solver_service.milp.backends.registry import milp_solver, version
from solver_service.milp.budget import Budget
from solver_service.milp.constrained import best_solution, improve_constrained, polish_best, taker
from solver_service.milp.control import Control
from solver_service.milp.elastic import ElasticProgram
from solver_service.milp.finish import finish_count
from solver_service.milp.formulation.compact import NO_CUTS, Cuts, columns_of, compact_model, complete, cuts_model
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.formulation.constrained import constrained_model
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.reference import complete_reference, reference_model
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.incumbents import Incumbents
from solver_service.milp.infeasible import blame, contradictions
from solver_service.milp.least_squares import solve_least_squares
from solver_service.milp.problem import Array, Problem, problem_of
from solver_service.milp.reduction import Screened, screen
from solver_service.milp.relaxation import Relaxation, relax
from solver_service.milp.report import (
    TOLERANCE,
    Ending,
    Solution,
    is_integral,
    safe_bound,
    sizes_of,
    solution_of,
)
from solver_service.milp.requirements import Requirements, requirements_of
from solver_service.milp.rounding import change_of, rounding_errors
from solver_service.milp.support import check_supported
from solver_service.milp.warmstart import improve

__all__ = ["Solution", "solve"]

CONSTRAINED_SHARE = 0.2
"""Of the time for heuristics where constraints keep most of what they find from counting."""
CONSTRAINED_ROUNDS = 5
SECOND = {"scip": "highs", "highs": "scip"}
"""Who takes over from a solver that gives up under constraints."""
STRICT_ROOM = 1e-5
"""How far from the line a second search keeps right and wrong apart, when rounding loses what the first one found."""
HEURISTIC_SHARE = 0.25
"""How much of the time the heuristics may take before anything is branched on, if they go on improving."""
HEURISTIC_S = 4.0
"""They may take these seconds in any case: at first they gain more than branching does."""
RELAXATION_SHARE = 0.25
BRANCHING_S = 2.0
"""Branching on a ramp gains nothing in less; heuristics do."""
ROUNDS = 40
"""Restarts in a row without an improvement, after which heuristics end where a node limit makes a run reproducible."""
MANY_ROUNDS = 10**9
PATIENCE_S = {"count": 0.25, "capped": 1.5}
"""Seconds without an improvement after which they do so by the clock; more where the last one took longer to find."""
MOST_ROUNDING = 1e-3
"""How much of a value rounding may excuse."""
BYTES_PER_NONZERO = 250
"""What a coefficient of the model costs in all, measured from its arrays to SCIP's copies of them."""

Start = tuple[FloatArray, FloatArray | None]


@dataclass(frozen=True, eq=False)
class Job:
    """All that the phases of one solve share."""

    problem: Problem
    spec: JobSpec
    control: Control
    screened: Screened
    incumbents: Incumbents

    @property
    def proven(self) -> bool:
        """True when the best value meets the bound, or comes as close as the job asks for."""
        if not self.incumbents.feasible:
            return False
        best, bound = self.incumbents.best.objective, max(0.0, self.incumbents.bound)
        return best <= bound or best - bound <= self.spec.limits.gap * best

    @property
    def deadline(self) -> float:
        """When the solver has to stop, in seconds: the time limit less what finishing takes."""
        limit = self.spec.limits.time_s
        return limit - min(0.5, 0.04 * limit)

    def budget(self) -> Budget:
        """All the time that is left."""
        reproducible = self.spec.limits.nodes is not None
        return Budget(self.control, self.deadline, ROUNDS if reproducible else MANY_ROUNDS)


def solve(snapshot: Snapshot, spec: JobSpec, control: Control | None = None, *, start: Start | None = None) -> Solution:
    """Find better weights for the snapshot's layer inside its box, and prove how much better they could be.

    `start` is another solution to begin from, such as a lost attempt's incumbent; it is clipped into the box. The
    result is never worse than the snapshot, the start, or any incumbent that was reported; only a snapshot that breaks
    the spec's constraints gives way to whatever keeps them. Raises SpecError for a spec that does not fit, SolverError
    when a solver breaks.
    """
    control = control or Control()
    spec.check(snapshot)
    check_supported(snapshot, spec)
    problem = problem_of(snapshot, spec)
    impossible = contradictions(snapshot, spec, problem)
    if impossible:
        job = _job(problem, spec, control, _nothing_to_screen(problem))
        ending = _ending(job, SolveStatus.INFEASIBLE, notes=tuple(impossible))
    elif spec.objective == "mse":
        job = _job(problem, spec, control, _nothing_to_screen(problem))
        ending = _least_squares(job, start)
    else:
        job = _job(problem, spec, control, screen(requirements_of(problem)))
        ending = _by_style(job, start)
    return solution_of(snapshot, spec, job.incumbents, ending, control.elapsed)


def _job(problem: Problem, spec: JobSpec, control: Control, screened: Screened) -> Job:
    cost = screened.cost if is_integral(problem) else screened.cost * (1 - 1e-12)
    return Job(problem, spec, control, screened, Incumbents(problem, control, bound=cost))


def _nothing_to_screen(problem: Problem) -> Screened:
    """Least squares have no rows; their sizes are told by a stand-in without any."""
    empty = np.zeros(0, dtype=np.int64)
    rows = Requirements("linear", 0.0, 1.0, np.zeros(0), empty, empty, empty, empty, np.zeros(0), np.zeros(0))
    return Screened(rows, 0.0, empty, np.zeros(0, dtype=bool))


def _by_style(job: Job, start: Start | None) -> Ending:
    _offer_start(job, start)
    settled = job.screened.requirements.rows == 0 and not job.problem.beyond_box
    if job.control.stopped or job.proven or settled:
        return _ending(job, _why(job))
    if job.problem.beyond_box:
        return _constrained(job)
    if job.screened.requirements.style == "linear":
        return _linear_program(job)
    return _mixed_integer(job)


def _offer_start(job: Job, start: Start | None) -> None:
    if start is not None:
        job.incumbents.offer(change_of(job.problem, *start))
    if not job.incumbents.feasible:
        job.incumbents.offer(change_of(job.problem, job.problem.snapshot.weight, job.problem.snapshot.bias))


def _least_squares(job: Job, start: Start | None) -> Ending:
    _offer_start(job, start)
    began = job.control.elapsed
    change, bound = solve_least_squares(job.problem, job.budget())
    job.incumbents.offer(change)
    job.incumbents.raise_bound(bound * (1 - 1e-9))
    ending = _ending(job, _why(job), backend=Backend(name="scipy", version=scipy.__version__))
    return replace(ending, solve_s=job.control.elapsed - began)


def _linear_program(job: Job) -> Ending:
    """hinge, mae and max_error: one LP with lazy rows, and a bound from its duals."""
    began, budget, left = job.control.elapsed, job.budget(), job.screened.requirements
    program = ElasticProgram(job.problem, left, should_stop=lambda: budget.over, on_change=job.incumbents.offer)
    point = program.solve(left.cost)
    if point is not None:
        job.incumbents.raise_bound(program.bound(point) * (1 - 1e-9))
    ending = _ending(job, _why(job), backend=Backend(name="highs", version=version("highs")))
    return replace(ending, build_s=began, solve_s=job.control.elapsed - began)


def _mixed_integer(job: Job) -> Ending:
    """zero_one, ramp and outliers: bounds that cost little, heuristics, and a solver for what is still open."""
    model = None
    if job.spec.solver.formulation == "compact":
        model = _bound_and_improve(job)
    if job.proven or job.control.stopped:
        return _ending(job, _why(job))
    if _too_large(job):
        note = "the model does not fit `limits.memory_mb`; heuristics only"
        return _ending(job, SolveStatus.MEMORY_LIMIT, notes=(note,))
    if not job.budget().over and not _branching_pays(job):
        _improve(job, job.budget(), resumed=True)
    if job.budget().over or not _branching_pays(job):
        return _ending(job, _why(job))
    return _branch_and_bound(job, model)


def _bound_and_improve(job: Job) -> LinearModel | None:
    """Heuristics and the bounds of relaxations; returns the compact model if that fits.

    A count's bound comes first, because heuristics often meet it; a ramp's never does, so its heuristics are first.
    """
    capped = job.screened.requirements.style == "capped"
    if capped:
        _improve(job, _heuristic_budget(job))
    cuts = _bound_by_conflicts(job)
    model = None
    if not (job.proven or _too_large(job)):
        model = _bound_by_relaxation(job, cuts)
    if not (job.proven or capped):
        _improve(job, _heuristic_budget(job))
    return model


def _branching_pays(job: Job) -> bool:
    """Whether there is enough time left for a branching solver to be of use."""
    if job.screened.requirements.style != "capped" or job.spec.limits.nodes is not None:
        return True
    return job.deadline - job.control.elapsed > BRANCHING_S


def _constrained(job: Job) -> Ending:
    """Constraints beyond signs: bounds and heuristics that know nothing of them, and a solver that does."""
    cuts, ending = NO_CUTS, None
    if job.screened.requirements.rows:
        if job.screened.requirements.style == "linear":
            ending = _linear_program(job)
        else:
            cuts = _bound_by_conflicts(job)
    if not job.proven:
        ending = None
        share = 1.0 if job.spec.limits.nodes is not None else CONSTRAINED_SHARE
        budget = replace(job.budget().share(share), rounds=CONSTRAINED_ROUNDS)
        improve_constrained(job.problem, job.screened, job.incumbents, budget, job.spec.solver.seed)
    ending = ending or replace(_ending(job, _why(job)), build_s=job.control.elapsed)
    if job.proven or job.control.stopped or job.budget().over:
        return ending
    if _too_large(job):
        note = "the model does not fit `limits.memory_mb`; heuristics only"
        return replace(ending, status=SolveStatus.MEMORY_LIMIT, notes=(note,))
    return _branch_under_constraints(job, cuts)


def _branch_under_constraints(job: Job, cuts: Cuts) -> Ending:
    problem, incumbents = job.problem, job.incumbents
    built = constrained_model(problem, job.screened, cuts, problem.constraints)
    began, whole = job.control.elapsed, Budget(job.control, job.spec.limits.time_s, ROUNDS)
    take = taker(problem, built, incumbents, lambda: whole.over)
    polish_best(problem, built, incumbents, lambda: job.budget().over)

    def search(model: LinearModel) -> Outcome:
        start = best_solution(problem, built, incumbents)
        try:
            return milp_solver(job.spec.solver.backend)(model, _options(job), job.control, take, start)
        except SolverError:
            # Numerical trouble of one solver is seldom that of the other.
            options = replace(_options(job), params={})
            return milp_solver(SECOND[job.spec.solver.backend])(model, options, job.control, take, start)

    outcome, strict = search(built.model), None
    notes: tuple[str, ...] = ()
    if not outcome.start_accepted:
        notes = ("the solver's check rejected the start; it searched without one",)
    if outcome.status is not SolveStatus.INFEASIBLE:
        incumbents.raise_bound(safe_bound(outcome.bound, integral=is_integral(problem)))
    missed = incumbents.best.objective > outcome.bound + _allowance(job)
    if outcome.status is SolveStatus.OPTIMAL and missed and not job.budget().over:
        strict = search(built.tightened(STRICT_ROOM))
        polish_best(problem, built, incumbents, lambda: whole.over)
    status = _honest(outcome)
    if not incumbents.feasible:
        status, notes = _nothing_found(job, outcome, strict)
    return replace(
        _ending(job, status, model=built.model, notes=notes),
        complete=outcome.status is SolveStatus.OPTIMAL,
        nodes=outcome.nodes,
        build_s=began,
        presolve_s=outcome.presolve_s,
        solve_s=outcome.solve_s,
    )


def _nothing_found(job: Job, outcome: Outcome, strict: Outcome | None) -> tuple[SolveStatus, tuple[str, ...]]:
    """Why no weights keep all constraints, as far as it is known."""
    if outcome.status is SolveStatus.INFEASIBLE:
        return SolveStatus.INFEASIBLE, tuple(blame(job.problem.snapshot, job.spec, job.budget()))
    if strict is not None and strict.status is SolveStatus.INFEASIBLE:
        note = (
            f"no weights keep all constraints, unless a sample is within {STRICT_ROOM:g} of being both right and wrong"
        )
        return SolveStatus.INFEASIBLE, (note,)
    if outcome.status in (SolveStatus.OPTIMAL, SolveStatus.GAP_REACHED):
        return SolveStatus.TIME_LIMIT, (
            "weights that keep all constraints exist, but none survived rounding to float32",
        )
    return outcome.status, ("no weights that keep all constraints were found before the limit",)


def _bound_by_conflicts(job: Job) -> Cuts:
    """What pairs of samples prove by themselves, and the cuts that it took."""
    requirements = job.screened.requirements
    cuts = pair_cuts(job.problem, requirements)
    return cuts.select(_relax(job, cuts_model(requirements, cuts, constant=job.screened.cost)).used)


def _bound_by_relaxation(job: Job, cuts: Cuts) -> LinearModel:
    """The compact model; its LP relaxation's bound, which heuristics may meet, also tells which rows lead."""
    model = compact_model(job.problem, job.screened.requirements, constant=job.screened.cost, cuts=cuts)
    return replace(model, leading=_relax(job, model).used)


def _relax(job: Job, model: LinearModel) -> Relaxation:
    budget = job.budget().share(RELAXATION_SHARE)
    relaxation = relax(model, lambda: budget.over)
    job.incumbents.raise_bound(safe_bound(relaxation.bound, integral=is_integral(job.problem)))
    return relaxation


def _improve(job: Job, budget: Budget, *, resumed: bool = False) -> None:
    improve(job.problem, job.screened, job.incumbents, budget, job.spec.solver.seed, resumed=resumed)


def _heuristic_budget(job: Job) -> Budget:
    """By the clock, or by rounds alone where a node limit asks for a reproducible run.

    Heuristics get all the time where the model is too large for a solver.
    """
    everything = job.budget()
    if job.spec.limits.nodes is not None or _too_large(job):
        return everything
    limit = everything.until
    until = min(0.8 * limit, max(HEURISTIC_S, HEURISTIC_SHARE * limit))
    return replace(everything, until=until, patience=PATIENCE_S[job.screened.requirements.style])


def _too_large(job: Job) -> bool:
    needed = BYTES_PER_NONZERO * nonzeros(job.problem, job.screened.requirements)
    if job.problem.beyond_box:
        needed *= 3  # rows and binaries that count, beside those of the objective
    return needed > job.spec.limits.memory_mb * 1e6


def _branch_and_bound(job: Job, model: LinearModel | None) -> Ending:
    model, start = _with_start(job, model)
    options = _options(job)
    backend = job.spec.solver.backend

    def on_solution(columns: Array, bound: float, nodes: int) -> None:
        job.incumbents.raise_bound(safe_bound(bound, integral=is_integral(job.problem)))
        _take(job, columns, nodes)

    outcome = milp_solver(backend)(model, options, job.control, on_solution, start)
    if outcome.status is SolveStatus.MEMORY_LIMIT and not (job.proven or job.budget().over):
        _improve(job, job.budget(), resumed=True)
    if outcome.status is not SolveStatus.INFEASIBLE:
        job.incumbents.raise_bound(safe_bound(outcome.bound, integral=is_integral(job.problem)))
    notes = () if outcome.start_accepted else ("the solver's check rejected the start; it searched without one",)
    ending = _ending(job, _honest(outcome), model=model, notes=notes)
    return replace(
        ending,
        complete=outcome.status is SolveStatus.OPTIMAL,
        nodes=outcome.nodes,
        build_s=outcome.build_s,
        presolve_s=outcome.presolve_s,
        solve_s=outcome.solve_s,
    )


def _with_start(job: Job, model: LinearModel | None) -> tuple[LinearModel, Array]:
    """The model (None: the reference model), and the best solution so far in its columns."""
    best = job.incumbents.best
    change = change_of(job.problem, best.weight, best.bias)
    if model is None:
        requirements = requirements_of(job.problem)
        values = requirements.values(job.problem, change)
        return reference_model(job.problem, requirements), complete_reference(requirements, change, values)
    left = job.screened.requirements
    return model, complete(left, columns_of(job.problem, left), change, left.values(job.problem, change))


def _options(job: Job) -> MilpOptions:
    limits, solver = job.spec.limits, job.spec.solver
    return MilpOptions(
        time_s=max(0.0, job.deadline - job.control.elapsed),
        memory_mb=limits.memory_mb,
        nodes=limits.nodes,
        gap=limits.gap,
        seed=solver.seed,
        find=not job.incumbents.feasible,
        params=solver.params,
    )


def _take(job: Job, columns: Array, nodes: int) -> None:
    """Offer a solver's solution; a count that rounding spoils gets the finishing step."""
    change = columns.reshape(job.problem.radius.shape)
    left = job.screened.requirements
    values = left.values(job.problem, change)
    shortfalls = left.shortfalls(values + TOLERANCE)
    claimed = float(left.losses(shortfalls).sum()) + job.screened.cost
    reached = job.incumbents.offer(change, nodes=nodes)
    if left.style == "count" and claimed < min(reached, job.incumbents.best.objective):
        whole = Budget(job.control, job.spec.limits.time_s, ROUNDS)
        finish_count(job.problem, job.screened, job.incumbents, shortfalls <= 0, lambda: whole.over)


def _why(job: Job) -> SolveStatus:
    """Why work ended before or without a branching solver, when nothing was proven."""
    if job.control.stopped:
        return SolveStatus.INTERRUPTED
    return SolveStatus.TIME_LIMIT if job.budget().over else SolveStatus.GAP_REACHED


def _honest(outcome: Outcome) -> SolveStatus:
    """A solver's claim to be done, or that nothing is feasible, is not the result's: see `report`."""
    done = (SolveStatus.OPTIMAL, SolveStatus.INFEASIBLE)
    return SolveStatus.GAP_REACHED if outcome.status in done else outcome.status


def _ending(
    job: Job,
    status: SolveStatus,
    *,
    model: LinearModel | None = None,
    backend: Backend | None = None,
    notes: tuple[str, ...] = (),
) -> Ending:
    name = job.spec.solver.backend
    return Ending(
        status=status,
        backend=backend or Backend(name=name, version=version(name)),
        sizes=sizes_of(job.problem, job.screened, model),
        allowance=_allowance(job),
        notes=notes,
    )


def _allowance(job: Job) -> float:
    """How far above its bound a proven optimum may stay: rounding to float32, and the solver's tolerance."""
    best, name = job.incumbents.best, job.problem.objective.name
    if not job.incumbents.feasible:
        return 0.0
    by_lp = job.screened.requirements.style == "linear" and not job.problem.beyond_box
    tolerance = 2 * TOLERANCE * (best.objective if by_lp else 1 + best.objective)
    if job.problem.beyond_box:
        tolerance *= 5  # the room that keeps right and wrong apart in float32 costs, too
    if name in ("zero_one", "outliers"):
        return 0.0 if is_integral(job.problem) else tolerance
    errors = rounding_errors(job.problem, best.weight, best.bias).max(axis=1)
    on_average = float(job.problem.cost @ errors)
    squared = float(job.problem.cost @ errors**2) * job.problem.units
    rounding = {
        "ramp": 2 * on_average / job.problem.objective.margin,
        "hinge": 2 * on_average / job.problem.objective.margin,
        "mae": on_average * job.problem.units,
        "mse": squared + 2 * math.sqrt(squared * best.objective),
        "max_error": float(errors.max()),
    }
    most = MOST_ROUNDING * (best.objective + MOST_ROUNDING * job.incumbents.start)
    return tolerance + min(rounding[name], most)
