"""trimmed_mse and trimmed_mae: concentration steps (Rousseeuw and Van Driessen 2006), from several starts.

Once it is known which samples are dropped the rest is mse (a convex program) or mae (a linear one). Minimising that,
and dropping the largest errors afresh, never makes the value larger; so it is repeated until the same samples are
dropped twice. Starts are fits to few samples each, which outliers spoil less often than a fit to all.

Where samples weigh unequally the first that does not fit into the share ends the trimming: the value jumps, minimising
can make it larger, and the best place may be one where two errors are equal. Then random steps from anywhere follow.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shared.contracts import Backend
from shared.losses import kept_after_trim
from shared.objectives import Objective
from solver_service.milp.backends.registry import milp_solver, version
from solver_service.milp.core.problem import Array, Mask, Problem
from solver_service.milp.core.requirements import Requirements, requirements_of
from solver_service.milp.final_layer.constrained_search import taker
from solver_service.milp.final_layer.convex.branching import Branching
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.final_layer.convex.smoothed import is_large, minima
from solver_service.milp.final_layer.job import Job, ending_of, options_of, too_large, why
from solver_service.milp.final_layer.report import Ending
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.constraints.constrained_model import constrained_model
from solver_service.milp.heuristics.programs.lazy_lp import LazyProgram
from solver_service.milp.heuristics.walks.random_steps import step_from_anywhere
from solver_service.milp.presolve.screening import screen
from solver_service.milp.rounding.into_box import change_of

STARTS = 40
"""Starts in a row without an improvement after which there is no hope for one."""
FEW_ANYWHERE, ANYWHERE = 2, 10
"""Random places in a row without a gain after which steps from there end: before branching, and at the end."""
STEPS = 30
"""Concentration steps from one start, at most."""
SMOOTHINGS = 2
"""How often a large mae is smoothed less before it counts as fitted."""
LARGEST_COST = 1e15
"""Solvers take what is much larger for infinite."""
Fit = Callable[[Mask, Array], Array]
"""The best change for some kept samples [n], from another change to begin with."""


def solve_trimmed(job: Job) -> Ending:
    """Concentrate from the best weights so far, from a fit to all samples, and from random few, while there is hope."""
    began, problem, budget = job.control.elapsed, job.problem, job.budget()
    rng = np.random.default_rng(job.spec.solver.seed)
    fit = _squares(job) if job.spec.objective == "trimmed_mse" else _distances(job)
    best = change_of(problem, job.incumbents.best.weight, job.incumbents.best.bias)
    everything = np.ones(problem.cost.size, dtype=bool)
    _concentrate(job, fit, best)
    if problem.objective.trim > 0 and not (job.proven or budget.over):
        _concentrate(job, fit, fit(everything, best))
    job.incumbents.tell("concentration from the best weights, and from a fit to all samples")
    idle, reached = 0, job.incumbents.best.objective
    while problem.objective.trim > 0 and idle < STARTS and not (job.proven or budget.over):
        _concentrate(job, fit, fit(_few(problem, rng), best))
        improved = job.incumbents.best.objective < reached
        idle, reached = 0 if improved else idle + 1, job.incumbents.best.objective
        job.incumbents.tell("concentration from a fit to few samples", passing=True)
    _step(job, rng, FEW_ANYWHERE)
    if problem.beyond_box and not (job.proven or budget.over):
        _fit_constrained(job, rng)
    _step(job, rng, ANYWHERE)
    ending = ending_of(job, why(job), backend=Backend(name="highs", version=version("highs")))
    return replace(ending, solve_s=job.control.elapsed - began)


def _step(job: Job, rng: np.random.Generator, starts: int) -> None:
    """Random steps from anywhere, where samples weigh unequally and some may be dropped."""
    problem, budget = job.problem, job.budget()
    unequal = float(problem.weights.min()) < float(problem.weights.max())
    if problem.objective.trim > 0 and unequal and not (job.proven or budget.over):
        step_from_anywhere(problem, job.incumbents, budget, rng, starts)
        job.incumbents.tell("random steps from anywhere")


def _concentrate(job: Job, fit: Fit, change: Array) -> Mask:
    """Offer what is on the way; the samples [n] that are kept in the end."""
    problem, budget = job.problem, job.budget()
    before: Mask | None = None
    for _ in range(STEPS):
        job.incumbents.offer(change)
        kept = _kept(problem, change)
        if budget.over or (before is not None and (kept == before).all()):
            return kept
        change, before = fit(kept, change), kept
    return kept


def _kept(problem: Problem, change: Array) -> Mask:
    error = np.abs(problem.scores_at(change) - problem.targets.astype(np.float64))
    losses = (error if problem.objective.name == "trimmed_mae" else error**2).mean(axis=1)
    return kept_after_trim(losses, problem.weights, problem.objective.trim)


def _few(problem: Problem, rng: np.random.Generator) -> Mask:
    """As many samples as a unit has weights and a bias, which decide a fit; no more than are kept."""
    samples = problem.cost.size
    most = int(_kept(problem, np.zeros_like(problem.radius)).sum())
    chosen = rng.permutation(samples)[: min(most, problem.inputs.shape[1])]
    few = np.zeros(samples, dtype=bool)
    few[chosen] = True
    return few


def _squares(job: Job) -> Fit:
    budget = job.budget()

    def fit(kept: Mask, change: Array) -> Array:
        program = ConvexProgram(job.problem, job.problem.cost * kept)
        return program.minimise(*program.box, change, lambda: budget.over).change

    return fit


def _distances(job: Job) -> Fit:
    return _smoothed_distances(job) if is_large(job) else _linear_distances(job)


def _smoothed_distances(job: Job) -> Fit:
    def fit(kept: Mask, change: Array) -> Array:
        for number, least in enumerate(minima(job.problem, job.problem.cost * kept, change, lambda: job.budget().over)):
            change = least.change
            if number == SMOOTHINGS:
                break
        return change

    return fit


def _linear_distances(job: Job) -> Fit:
    budget = job.budget()
    requirements = requirements_of(replace(job.problem, objective=Objective("mae")))
    program = LazyProgram(job.problem, requirements, should_stop=lambda: budget.over, on_change=lambda _: None)
    sample = np.zeros(requirements.groups, dtype=np.int64)
    sample[requirements.group] = requirements.sample

    def fit(kept: Mask, change: Array) -> Array:
        point = program.solve(requirements.cost * kept[sample])
        return change if point is None else point.change

    return fit


def _fit_constrained(job: Job, rng: np.random.Generator) -> None:
    """Search what constraints on single weights leave, from the samples that the best weights keep, and from others.

    Others are those to which concentration leads while what the best weights decide stays: zeros, multiples, levels.
    """
    branch = _branch_squares if job.spec.objective == "trimmed_mse" else _branch_distances
    _branch_on_the_best(job, branch)
    branched, idle = set[bytes](), 0
    while job.problem.objective.trim > 0 and idle < STARTS and not (job.proven or job.budget().over):
        before = job.incumbents.best.objective
        fit = _decided_squares(job)
        kept = _concentrate(job, fit, fit(_few(job.problem, rng), job.incumbents.whole_change))
        if kept.tobytes() not in branched:
            branched.add(kept.tobytes())
            branch(job, kept)
        improved = job.incumbents.best.objective < before
        if improved:
            _branch_on_the_best(job, branch)
        idle = 0 if improved else idle + 1
    job.incumbents.tell("branching on single weights for several sets of kept samples")


def _branch_on_the_best(job: Job, branch: Callable[[Job, Mask], None]) -> None:
    """For the samples that the best weights keep, while that helps."""
    for _ in range(STEPS):
        before = job.incumbents.best.objective
        branch(job, _kept(job.problem, job.incumbents.whole_change))
        if job.budget().over or job.incumbents.best.objective >= before:
            return


def _decided_squares(job: Job) -> Fit:
    """Fits of squares where what the best weights decide stays; for distances they are a sketch."""
    budget, squares = job.budget(), replace(job.problem, objective=Objective("mse"))
    box = Branching(job, ConvexProgram(squares)).decided_by(job.incumbents.best.weight)

    def fit(kept: Mask, change: Array) -> Array:
        return ConvexProgram(squares, squares.cost * kept).minimise(*box, change, lambda: budget.over).change

    return fit


def _branch_squares(job: Job, kept: Mask) -> None:
    budget, squares = job.budget(), replace(job.problem, objective=Objective("mse"))
    program = ConvexProgram(squares, job.problem.cost * kept)
    branching = Branching(job, program)
    best = change_of(job.problem, job.incumbents.best.weight, job.incumbents.best.bias)
    least = program.minimise(*branching.root, best, lambda: budget.over)
    branching.run(replace(least, bound=0.0), certain=False)


def _branch_distances(job: Job, kept: Mask) -> None:
    distances = replace(job.problem, objective=Objective("mae"), cost=job.problem.cost * kept)
    built = constrained_model(distances, screen(_of_kept(distances, kept)), NO_CUTS, job.problem.constraints)
    if too_large(job) or np.abs(built.model.objective).max() > LARGEST_COST:
        return
    take = taker(job.problem, built, job.incumbents, lambda: job.budget().over)
    milp_solver(job.spec.solver.backend)(built.model, options_of(job), job.control, take, None)


def _of_kept(problem: Problem, kept: Mask) -> Requirements:
    requirements = requirements_of(problem)
    return requirements.select(kept[requirements.sample])
