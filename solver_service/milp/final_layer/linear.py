"""Objectives that are linear programs: hinge, mae, quantile and max_error, with rows as they are violated."""

from dataclasses import replace

import numpy as np

from shared.contracts import Backend, SolveStatus
from solver_service.milp.backends.registry import version
from solver_service.milp.final_layer.convex.smoothed import SMOOTHED, descend_smoothed, is_large, time_for_program
from solver_service.milp.final_layer.job import Job, allowance, ending_of, why
from solver_service.milp.final_layer.report import Ending
from solver_service.milp.heuristics.programs.lazy_lp import LazyProgram
from solver_service.milp.heuristics.programs.push_off import finish_count

SEARCHED_SHARE, PATIENCE_S = 0.3, 0.3
"""Of the time for descents before the linear program of a large problem, unless they stand still."""


def solve_linear(job: Job) -> Ending:
    """One LP with lazy rows, and a bound from its duals; where it takes long, a descent comes first."""
    began, budget, left = job.control.elapsed, job.budget(), job.screened.requirements
    if job.problem.objective.name in SMOOTHED and is_large(job):
        descend_smoothed(job)
        close = job.incumbents.best.objective - job.incumbents.bound <= allowance(job)
        if close or job.proven or not (job.improver.models_pay and time_for_program(job)):
            late = not (close or job.proven or job.control.stopped)
            status = SolveStatus.TIME_LIMIT if late else why(job)
            return replace(ending_of(job, status), solve_s=job.control.elapsed - began)
    elif job.improver.large:
        job.improver.run(replace(job.budget().share(SEARCHED_SHARE), patience=PATIENCE_S))
    program = LazyProgram(job.space, left, should_stop=lambda: budget.over, on_change=job.incumbents.offer)
    point = program.solve(left.cost)
    if point is not None:
        job.incumbents.raise_bound(program.bound(point) * (1 - 1e-9))
    job.incumbents.tell(f"linear program{'' if point is not None else ', not solved to the end'}")
    if job.problem.objective.name == "hinge" and job.incumbents.bound <= 0 and job.incumbents.best.objective > 0:
        # Every margin can be met, and what is left is rounding: with room to spare, none is.
        finish_count(job.space, job.screened, job.incumbents, np.ones(left.groups, dtype=bool), lambda: budget.over)
    ending = ending_of(job, why(job), backend=Backend(name="highs", version=version("highs")))
    return replace(ending, build_s=began, solve_s=job.control.elapsed - began)
