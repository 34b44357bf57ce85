"""What the phases of one solve share: the job, its time, and how its ending is put into words."""

import math
from dataclasses import dataclass

import numpy as np

from shared.contracts import Backend, JobSpec, SolveStatus
from shared.objectives import WORST
from solver_service.milp.backends.outcome import MilpOptions, Outcome
from solver_service.milp.backends.registry import version
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Problem, Space
from solver_service.milp.core.requirements import STYLES
from solver_service.milp.core.solution import BYTES_PER_NONZERO, TOLERANCE, is_integral
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.final_layer.report import Ending, sizes_of
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.presolve.aggregation import Aggregation
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.rounding.into_box import rounding_errors

MOST_ROUNDING = 1e-3
"""How much of a value rounding may excuse."""
ROUNDS = 12
"""Restarts in a row without an improvement, after which heuristics end where a node limit makes a run reproducible."""
ROOT_ROUNDS = {"count": 5, "capped": 20, "linear": 5}
"""Rounds of SCIP's own cuts at the root, by measurement: the bounds of ramps gain by more of them."""
MANY_ROUNDS = 10**9


@dataclass(frozen=True, eq=False)
class Job:
    """All that the phases of one solve share."""

    problem: Problem
    spec: JobSpec
    control: Control
    folding: Aggregation
    screened: Screened
    incumbents: Incumbents
    improver: Improver

    @property
    def space(self) -> Space:
        """What is searched: the problem's box, folded."""
        return self.folding.space

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
        return self.budget().until

    def budget(self) -> Budget:
        """All the time that is left."""
        return budget_of(self.spec, self.control)


def budget_of(spec: JobSpec, control: Control) -> Budget:
    """A job's time, less what finishing takes."""
    limit, reproducible = spec.limits.time_s, spec.limits.nodes is not None
    return Budget(control, limit - min(0.5, 0.04 * limit), ROUNDS if reproducible else MANY_ROUNDS)


def too_large(job: Job) -> bool:
    """Whether the model would take more than the job's `limits.memory_mb`."""
    needed = BYTES_PER_NONZERO * nonzeros(job.space, job.screened.requirements)
    if job.problem.beyond_box:
        needed *= 3  # rows and binaries that count, beside those of the objective
    return needed > job.spec.limits.memory_mb * 1e6


def options_of(job: Job) -> MilpOptions:
    """What a branching solver is told: the job's limits, seed and parameters, with the time that is left."""
    limits, solver = job.spec.limits, job.spec.solver
    return MilpOptions(
        time_s=max(0.0, job.deadline - job.control.elapsed),
        memory_mb=limits.memory_mb,
        nodes=limits.nodes,
        gap=limits.gap,
        seed=solver.seed,
        find=not job.incumbents.feasible,
        root_rounds=ROOT_ROUNDS[job.screened.requirements.style],
        params=solver.params,
    )


def why(job: Job) -> SolveStatus:
    """Why work ended before or without a branching solver, when nothing was proven.

    There is no gap where nothing keeps the constraints: then searches ended at the job's limits.
    """
    if job.control.stopped:
        return SolveStatus.INTERRUPTED
    if job.budget().over:
        return SolveStatus.TIME_LIMIT
    if job.incumbents.feasible:
        return SolveStatus.GAP_REACHED
    return SolveStatus.TIME_LIMIT if job.spec.limits.nodes is None else SolveStatus.NODE_LIMIT


def honest(outcome: Outcome) -> SolveStatus:
    """A solver's claim to be done, or that nothing is feasible, is not the result's: see `report`."""
    done = (SolveStatus.OPTIMAL, SolveStatus.INFEASIBLE)
    return SolveStatus.GAP_REACHED if outcome.status in done else outcome.status


def ending_of(
    job: Job,
    status: SolveStatus,
    *,
    model: LinearModel | None = None,
    backend: Backend | None = None,
    notes: tuple[str, ...] = (),
) -> Ending:
    """The ending of a job: its status unless something better was proven, who did it, and the model's size."""
    name = job.spec.solver.backend
    return Ending(
        status=status,
        backend=backend or Backend(name=name, version=version(name)),
        sizes=sizes_of(job.problem, job.folding, job.screened, model),
        allowance=allowance(job),
        notes=notes,
    )


def allowance(job: Job) -> float:
    """How far above its bound a proven optimum may stay: rounding to float32, and the solver's tolerance."""
    best, name = job.incumbents.best, job.problem.objective.name
    if not job.incumbents.feasible:
        return 0.0
    by_lp = job.screened.requirements.style == "linear" and not job.problem.beyond_box
    tolerance = 2 * TOLERANCE * (best.objective if by_lp else 1 + best.objective)
    if job.problem.beyond_box:
        tolerance *= 5  # the room that keeps right and wrong apart in float32 costs, too
    if name not in STYLES:
        tolerance = 2 * TOLERANCE * best.objective
        if name == "log_loss" and job.problem.beyond_box:
            tolerance += 2 * TOLERANCE  # its tangents are rows of a model; the loss itself has a natural unit
    if name in ("zero_one", "outliers"):
        return 0.0 if is_integral(job.problem) else tolerance
    if name in WORST:
        return tolerance
    errors = rounding_errors(job.problem, best.weight, best.bias)
    on_average = float(job.problem.cost @ errors)
    squared = float(job.problem.cost @ errors**2) * job.problem.units
    rounding = {
        "log_loss": 2 * on_average * job.problem.units,
        "huber": on_average * job.problem.units * job.problem.objective.delta,
        "quantile": on_average * job.problem.units,
        "trimmed_mae": on_average * job.problem.units,
        "trimmed_mse": squared + 2 * math.sqrt(squared * best.objective),
        "ramp": 2 * on_average / job.problem.objective.margin,
        "hinge": 2 * on_average / job.problem.objective.margin,
        "mae": on_average * job.problem.units,
        "mse": squared + 2 * math.sqrt(squared * best.objective),
        "max_error": float(errors.max()),
    }
    # A cross-entropy has a unit of its own; other objectives have the start's, or that of no scores at all.
    silent = 1.0 if name == "log_loss" else job.problem.loss(np.zeros_like(job.problem.scores))
    unit = min(silent, job.incumbents.start)
    most = MOST_ROUNDING * (best.objective + MOST_ROUNDING * unit)
    return tolerance + min(rounding[name], most)
