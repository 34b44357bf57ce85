"""Objectives that are linear programs: hinge, mae and max_error, with rows as they are violated."""

from dataclasses import replace

from shared.contracts import Backend
from solver_service.milp.backends.registry import version
from solver_service.milp.final_layer.job import Job, ending_of, why
from solver_service.milp.final_layer.report import Ending
from solver_service.milp.heuristics.lazy_lp import LazyProgram

SEARCHED_SHARE, PATIENCE_S = 0.3, 0.3
"""Of the time for descents before the linear program of a large problem, unless they stand still."""


def solve_linear(job: Job) -> Ending:
    """hinge, mae and max_error: one LP with lazy rows, and a bound from its duals."""
    if job.improver.large:
        job.improver.run(replace(job.budget().share(SEARCHED_SHARE), patience=PATIENCE_S))
    began, budget, left = job.control.elapsed, job.budget(), job.screened.requirements
    program = LazyProgram(job.space, left, should_stop=lambda: budget.over, on_change=job.incumbents.offer)
    point = program.solve(left.cost)
    if point is not None:
        job.incumbents.raise_bound(program.bound(point) * (1 - 1e-9))
    ending = ending_of(job, why(job), backend=Backend(name="highs", version=version("highs")))
    return replace(ending, build_s=began, solve_s=job.control.elapsed - began)
