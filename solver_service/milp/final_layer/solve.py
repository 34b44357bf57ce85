"""The recipe for the output layer: screen, start, improve, prove, recompute."""

from dataclasses import replace

import numpy as np
import scipy

from shared.contracts import Backend, JobSpec, SolveStatus
from shared.objectives import TRIMMED
from shared.snapshot import Snapshot
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, Problem, problem_of
from solver_service.milp.core.requirements import STYLES, Requirements, requirements_of
from solver_service.milp.core.solution import TOLERANCE, Solution, is_integral, safe_bound
from solver_service.milp.final_layer.bounding import bound_by_conflicts, bound_by_relaxation
from solver_service.milp.final_layer.infeasible import contradictions
from solver_service.milp.final_layer.job import ROUNDS, Job, ending_of, honest, options_of, too_large, why
from solver_service.milp.final_layer.least_squares import solve_least_squares
from solver_service.milp.final_layer.linear import solve_linear
from solver_service.milp.final_layer.report import Ending, solution_of
from solver_service.milp.final_layer.smooth import solve_smooth
from solver_service.milp.final_layer.trimmed import solve_trimmed
from solver_service.milp.final_layer.under_constraints import solve_constrained
from solver_service.milp.formulation.compact import columns_of, complete
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.reference import complete_reference, reference_model
from solver_service.milp.heuristics.kept_sets import improve
from solver_service.milp.heuristics.push_off import finish_count
from solver_service.milp.presolve.aggregation import Aggregation, fold, not_aggregated
from solver_service.milp.presolve.screening import Screened, screen
from solver_service.milp.rounding.incumbents import Incumbents

HEURISTIC_SHARE = 0.25
"""How much of the time the heuristics may take before anything is branched on, if they go on improving."""
HEURISTIC_S = 4.0
"""They may take these seconds in any case: at first they gain more than branching does."""
BRANCHING_S = 2.0
"""Branching on a ramp gains nothing in less; heuristics do."""
PATIENCE_S = {"count": 0.25, "capped": 1.5}
"""Seconds without an improvement after which they do so by the clock; more where the last one took longer to find."""


def solve_final_layer(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    """Find better weights for an output layer, and prove how much better they could be."""
    problem = problem_of(snapshot, spec)
    impossible = contradictions(snapshot, spec, problem)
    if impossible:
        job = _job(problem, spec, control, _nothing_to_screen(problem))
        ending = ending_of(job, SolveStatus.INFEASIBLE, notes=tuple(impossible))
    elif spec.objective not in STYLES:
        job = _job(problem, spec, control, _nothing_to_screen(problem))
        ending = _no_rows(job, start)
    else:
        job = _job(problem, spec, control, *_reduced(problem, spec))
        ending = _by_style(job, start)
    return solution_of(snapshot, spec, job.incumbents, ending, control.elapsed)


def _reduced(problem: Problem, spec: JobSpec) -> tuple[Screened, Aggregation]:
    """What is left to decide; columns are folded where nothing looks at single weights."""
    screened = screen(requirements_of(problem))
    if problem.constraints or problem.beyond_box or spec.solver.formulation != "compact":
        return screened, not_aggregated(problem)
    return fold(problem, screened)


def _job(
    problem: Problem, spec: JobSpec, control: Control, screened: Screened, folding: Aggregation | None = None
) -> Job:
    folding = folding or not_aggregated(problem)
    cost = screened.cost if is_integral(problem) else screened.cost * (1 - 1e-12)
    return Job(problem, spec, control, folding, screened, Incumbents(problem, control, folding=folding, bound=cost))


def _nothing_to_screen(problem: Problem) -> Screened:
    """Least squares have no rows; their sizes are told by a stand-in without any."""
    empty = np.zeros(0, dtype=np.int64)
    rows = Requirements("linear", 0.0, 1.0, np.zeros(0), empty, empty, empty, empty, np.zeros(0), np.zeros(0))
    return Screened(rows, 0.0, empty, np.zeros(0, dtype=bool))


def _by_style(job: Job, start: Moved | None) -> Ending:
    _offer_start(job, start)
    settled = job.screened.requirements.rows == 0 and not job.problem.beyond_box
    if job.control.stopped or job.proven or settled:
        return ending_of(job, why(job))
    if job.problem.beyond_box:
        return solve_constrained(job)
    if job.screened.requirements.style == "linear":
        return solve_linear(job)
    return _mixed_integer(job)


def _offer_start(job: Job, start: Moved | None) -> None:
    if start is not None:
        job.incumbents.offer_near(start.weight, start.bias)
    if not job.incumbents.feasible:
        job.incumbents.offer_near(job.problem.snapshot.weight, job.problem.snapshot.bias)


def _least_squares(job: Job, start: Moved | None) -> Ending:
    _offer_start(job, start)
    began = job.control.elapsed
    change, bound = solve_least_squares(job.problem, job.budget())
    job.incumbents.offer(change)
    job.incumbents.raise_bound(bound * (1 - 1e-9))
    ending = ending_of(job, why(job), backend=Backend(name="scipy", version=scipy.__version__))
    return replace(ending, solve_s=job.control.elapsed - began)


def _no_rows(job: Job, start: Moved | None) -> Ending:
    """What is no linear program: least squares, other smooth convex objectives, and trimmed means."""
    if job.spec.objective == "mse" and not job.problem.beyond_box:
        return _least_squares(job, start)
    _offer_start(job, start)
    return solve_trimmed(job) if job.spec.objective in TRIMMED else solve_smooth(job)


def _mixed_integer(job: Job) -> Ending:
    """zero_one, ramp and outliers: bounds that cost little, heuristics, and a solver for what is still open."""
    model = None
    if job.spec.solver.formulation == "compact":
        model = _bound_and_improve(job)
    if job.proven or job.control.stopped:
        return ending_of(job, why(job))
    if too_large(job):
        note = "the model does not fit `limits.memory_mb`; heuristics only"
        return ending_of(job, SolveStatus.MEMORY_LIMIT, notes=(note,))
    if not job.budget().over and not _branching_pays(job):
        _improve(job, job.budget(), resumed=True)
    if job.budget().over or not _branching_pays(job):
        return ending_of(job, why(job))
    return _branch_and_bound(job, model)


def _bound_and_improve(job: Job) -> LinearModel | None:
    """Heuristics and the bounds of relaxations; returns the compact model if that fits.

    A count's bound comes first, because heuristics often meet it; a ramp's never does, so its heuristics are first.
    """
    capped = job.screened.requirements.style == "capped"
    if capped:
        _improve(job, _heuristic_budget(job))
    cuts = bound_by_conflicts(job)
    model = None
    if not (job.proven or too_large(job)):
        model = bound_by_relaxation(job, cuts)
    if not (job.proven or capped):
        _improve(job, _heuristic_budget(job))
    return model


def _branching_pays(job: Job) -> bool:
    """Whether there is enough time left for a branching solver to be of use."""
    if job.screened.requirements.style != "capped" or job.spec.limits.nodes is not None:
        return True
    return job.deadline - job.control.elapsed > BRANCHING_S


def _improve(job: Job, budget: Budget, *, resumed: bool = False) -> None:
    improve(job.space, job.screened, job.incumbents, budget, job.spec.solver.seed, resumed=resumed)


def _heuristic_budget(job: Job) -> Budget:
    """By the clock, or by rounds alone where a node limit asks for a reproducible run.

    Heuristics get all the time where the model is too large for a solver.
    """
    everything = job.budget()
    if job.spec.limits.nodes is not None or too_large(job):
        return everything
    limit = everything.until
    until = min(0.8 * limit, max(HEURISTIC_S, HEURISTIC_SHARE * limit))
    return replace(everything, until=until, patience=PATIENCE_S[job.screened.requirements.style])


def _branch_and_bound(job: Job, model: LinearModel | None) -> Ending:
    model, start = _with_start(job, model)
    options = options_of(job)
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
    ending = ending_of(job, honest(outcome), model=model, notes=notes)
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
    change = job.incumbents.change
    if model is None:
        requirements = requirements_of(job.problem)
        values = requirements.values(job.space, change)
        return reference_model(job.space, requirements), complete_reference(requirements, change, values)
    left = job.screened.requirements
    return model, complete(left, columns_of(job.space, left), change, left.values(job.space, change))


def _take(job: Job, columns: Array, nodes: int) -> None:
    """Offer a solver's solution; a count that rounding spoils gets the finishing step."""
    change = columns.reshape(job.space.radius.shape)
    left = job.screened.requirements
    values = left.values(job.space, change)
    shortfalls = left.shortfalls(values + TOLERANCE)
    claimed = float(left.losses(shortfalls).sum()) + job.screened.cost
    reached = job.incumbents.offer(change, nodes=nodes)
    if left.style == "count" and claimed < min(reached, job.incumbents.best.objective):
        whole = Budget(job.control, job.spec.limits.time_s, ROUNDS)
        finish_count(job.space, job.screened, job.incumbents, shortfalls <= 0, lambda: whole.over)
