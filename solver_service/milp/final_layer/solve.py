"""The recipe for the output layer: screen, start, improve, prove, recompute."""

from dataclasses import replace

import numpy as np
import scipy

from shared.contracts import Backend, JobSpec, SolveStatus
from shared.errors import ContractError
from shared.objectives import TRIMMED
from shared.snapshot import Snapshot
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.problem import Array, Problem, problem_of
from solver_service.milp.core.requirements import STYLES, Requirements, requirements_of
from solver_service.milp.core.solution import BREAKS, TOLERANCE, Solution, gave_up, is_integral, safe_bound
from solver_service.milp.final_layer.bounding import bound_by_conflicts, bound_by_relaxation, branching_pays
from solver_service.milp.final_layer.convex.least_squares import solve_least_squares
from solver_service.milp.final_layer.convex.rounded_fits import fit_rounded
from solver_service.milp.final_layer.convex.smooth import solve_smooth
from solver_service.milp.final_layer.convex.smoothed import SMOOTHED
from solver_service.milp.final_layer.convex.trimmed import solve_trimmed
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.final_layer.infeasible import contradictions
from solver_service.milp.final_layer.job import (
    ROUNDS,
    Job,
    allowance,
    budget_of,
    ending_of,
    honest,
    options_of,
    too_large,
    why,
)
from solver_service.milp.final_layer.linear import solve_linear
from solver_service.milp.final_layer.report import Ending, solution_of
from solver_service.milp.final_layer.under_constraints import solve_constrained
from solver_service.milp.formulation.compact import columns_of, complete
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.reference import complete_reference, reference_model
from solver_service.milp.heuristics.programs.push_off import finish_count
from solver_service.milp.heuristics.walks.random_steps import search_by_random_steps
from solver_service.milp.presolve.aggregation import Aggregation, fold, not_aggregated
from solver_service.milp.presolve.screening import Screened, screen
from solver_service.milp.rounding.incumbents import Incumbents

HEURISTIC_SHARE = 0.25
"""How much of the time the heuristics may take before anything is branched on, if they go on improving."""
HEURISTIC_S = 4.0
"""They may take these seconds in any case: at first they gain more than branching does."""
UNPROVEN_SHARE, UNPROVEN_S, LONG_SHARE = 0.8, 20.0, 0.4
"""Of the time for searches where no solver will branch, but no more than these seconds, or this share if it is more;
the rest is for bounds, and for searches again."""
STEPPED = ("hinge", "mae", "quantile", "max_error", "mse", "huber", "log_loss", *TRIMMED)
"""Objectives that end with random steps: the convex ones, and those that are fitted by convex programs."""
OPEN, STEPS_SHARE, STEPS_S = 1e-3, 0.1, 0.5
"""From which part of the value that is open random steps look for what rounding lost, and how long they may."""
TOO_LARGE_TO_PROVE = "too large for a model within this time: searched only, and nothing is proven"
PATIENCE_S = {"count": 0.25, "capped": 1.5}
"""Seconds without an improvement after which they do so by the clock; more where the last one took longer to find."""


def solve_final_layer(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    """Find better weights for an output layer, and prove how much better they could be."""
    problem = problem_of(snapshot, spec)
    incumbents = Incumbents(problem, control)
    improver = Improver(problem, spec, control, incumbents)
    impossible = contradictions(snapshot, spec, problem, shares=improver.models_pay)
    if impossible:
        job = _job(improver, *_nothing_left(problem))
        ending = ending_of(job, SolveStatus.INFEASIBLE, notes=tuple(impossible))
    else:
        _offer_start(problem, incumbents, start)
        incumbents.tell("start")
        ending = _whatever_breaks(improver)
    return solution_of(snapshot, spec, incumbents, ending, control.elapsed)


def _whatever_breaks(improver: Improver) -> Ending:
    """By the recipe; where a solver or the arithmetic breaks, what was found until then stands."""
    try:
        return _improved_and_proven(improver)
    except ContractError:
        raise
    except BREAKS as error:
        job = _job(improver, *_nothing_left(improver.problem))
        status = SolveStatus.MEMORY_LIMIT if isinstance(error, MemoryError) else why(job)
        return ending_of(job, status, notes=(gave_up(error),))


def _improved_and_proven(improver: Improver) -> Ending:
    budget = budget_of(improver.spec, improver.control)
    improver.stand_in(budget)
    if improver.slow_to_model:
        improver.first(budget)
        improver.incumbents.tell("a first round of searches")
    job = _job(improver, *_reduced(improver))
    rows, columns = job.screened.requirements.rows, job.space.columns
    job.incumbents.tell(f"reductions: {rows} rows left, {columns} columns")
    searched = not (improver.soon_scored or job.problem.constraints)
    return _searched(job) if searched else _with_random_steps(job, _by_style(job))


def _reduced(improver: Improver) -> tuple[Screened, Aggregation]:
    """What is left to decide; columns are aggregated where nothing looks at single weights."""
    problem, spec = improver.problem, improver.spec
    if spec.objective not in STYLES or not improver.models_pay:
        return _nothing_left(problem)
    screened = screen(requirements_of(problem))
    if problem.constraints or problem.beyond_box or spec.solver.formulation != "compact":
        return screened, not_aggregated(problem)
    return fold(problem, screened)


def _job(improver: Improver, screened: Screened, aggregation: Aggregation) -> Job:
    problem, incumbents = improver.problem, improver.incumbents
    incumbents.aggregate(aggregation)
    incumbents.raise_bound(screened.cost if is_integral(problem) else screened.cost * (1 - 1e-12))
    return Job(problem, improver.spec, improver.control, aggregation, screened, incumbents, improver)


def _nothing_left(problem: Problem) -> tuple[Screened, Aggregation]:
    """A stand-in without any rows, for what needs none: least squares, and what is too large for models."""
    empty = np.zeros(0, dtype=np.int64)
    rows = Requirements("linear", 0.0, 1.0, np.zeros(0), empty, empty, empty, empty, np.zeros(0), np.zeros(0))
    return Screened(rows, 0.0, empty, np.zeros(0, dtype=bool)), not_aggregated(problem)


def _offer_start(problem: Problem, incumbents: Incumbents, start: Moved | None) -> None:
    if start is not None:
        incumbents.offer_near(start.weight, start.bias)
    if not incumbents.feasible:
        incumbents.offer_near(problem.snapshot.weight, problem.snapshot.bias)


def _by_style(job: Job) -> Ending:
    if job.spec.objective not in STYLES:
        return _no_rows(job)
    settled = job.screened.requirements.rows == 0 and not job.problem.beyond_box and job.improver.models_pay
    if job.proven or settled or job.control.stopped:
        return ending_of(job, why(job))
    if not job.improver.models_pay:
        smoothed = job.spec.objective in SMOOTHED and not job.problem.beyond_box
        return solve_linear(job) if smoothed else _searched(job)
    job.improver.learn(job.space, job.screened)
    if job.problem.beyond_box:
        return solve_constrained(job)
    if job.screened.requirements.style == "linear":
        return solve_linear(job)
    return _mixed_integer(job)


def _with_random_steps(job: Job, ending: Ending) -> Ending:
    """Where a convex objective ends by itself above its bound, rounding may have lost that: look around a little."""
    incumbents = job.incumbents
    open_part = incumbents.best.objective - incumbents.bound
    ended = ending.status in (SolveStatus.GAP_REACHED, SolveStatus.OPTIMAL) and incumbents.feasible
    if not (ended and job.spec.objective in STEPPED and open_part > OPEN * incumbents.best.objective):
        return ending
    budget = job.budget()
    if job.spec.limits.nodes is None:
        budget = replace(budget, until=min(budget.share(STEPS_SHARE).until, job.control.elapsed + STEPS_S))
    search_by_random_steps(job.problem, incumbents, budget, job.spec.solver.seed)
    incumbents.tell("random steps")
    return replace(ending, allowance=allowance(job))


def _searched(job: Job) -> Ending:
    """What is too large for any model gets all the time for searches; nothing is proven, but by smooth programs."""
    fit_rounded(job)
    job.improver.run(job.budget())
    status = SolveStatus.INTERRUPTED if job.control.stopped else SolveStatus.TIME_LIMIT
    return ending_of(job, status, notes=(TOO_LARGE_TO_PROVE,))


def _least_squares(job: Job) -> Ending:
    began = job.control.elapsed
    change, bound = solve_least_squares(job.problem, job.budget())
    job.incumbents.offer(change)
    job.incumbents.raise_bound(bound * (1 - 1e-9))
    job.incumbents.tell("least squares")
    ending = ending_of(job, why(job), backend=Backend(name="scipy", version=scipy.__version__))
    return replace(ending, solve_s=job.control.elapsed - began)


def _no_rows(job: Job) -> Ending:
    """What is no linear program: least squares, other smooth convex objectives, and trimmed means."""
    if job.spec.objective == "mse" and not job.problem.beyond_box and not job.improver.large:
        return _least_squares(job)
    if job.spec.objective in TRIMMED:
        squares = job.spec.objective == "trimmed_mse"
        return solve_trimmed(job) if squares or job.improver.models_pay else _searched(job)
    return solve_smooth(job)


def _mixed_integer(job: Job) -> Ending:
    """zero_one, ramp and outliers: bounds that cost little, heuristics, and a solver for what is still open."""
    compact, model = job.spec.solver.formulation == "compact", None
    if compact:
        model = _bound_and_improve(job)
    if job.proven or job.control.stopped:
        return ending_of(job, why(job))
    if too_large(job):
        job.improver.run(job.budget())
        note = "the model does not fit `limits.memory_mb`; heuristics only"
        return ending_of(job, SolveStatus.MEMORY_LIMIT, notes=(note,))
    unbranched = compact and model is None
    if unbranched or not branching_pays(job):
        job.improver.run(job.budget())
    if unbranched or job.proven or job.budget().over:
        return ending_of(job, why(job))
    return _branch_and_bound(job, model)


def _bound_and_improve(job: Job) -> LinearModel | None:
    """Heuristics and the bounds of relaxations; returns the compact model if that fits.

    A count's bound comes first where it is cheap, because heuristics often meet it; a ramp's never does.
    """
    searched = job.screened.requirements.style == "capped" or job.improver.still_large
    if searched:
        job.improver.run(_heuristic_budget(job))
    model = None
    if not (job.proven or job.budget().over):
        conflicts = bound_by_conflicts(job)
        if not (job.proven or job.budget().over or too_large(job)):
            model = bound_by_relaxation(job, conflicts)
    if not (job.proven or searched):
        job.improver.run(_heuristic_budget(job))
    return model


def _heuristic_budget(job: Job) -> Budget:
    """By the clock, or by rounds alone where a node limit asks for a reproducible run.

    Heuristics get all the time where the model is too large for a solver.
    """
    everything = job.budget()
    if job.spec.limits.nodes is not None or too_large(job):
        return everything
    if not branching_pays(job):
        most = max(UNPROVEN_S, LONG_SHARE * everything.until)
        return replace(everything, until=min(everything.share(UNPROVEN_SHARE).until, most))
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
        job.improver.run(job.budget())
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
