"""log_loss under constraints that count samples: the mixed-integer model, with the loss from below by its tangents.

    min theta + movement   with   theta >= f(x_i) + grad f(x_i) . (x - x_i)   for all points x_i looked at so far

f is convex, so every tangent is below it and the model's bound is one of the job (Duran and Grossmann 1986). Each round
adds the tangents at the model's solution and at the best weights, until the two meet.
"""

import math
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from shared.contracts import SolveStatus
from solver_service.milp.backends.outcome import Outcome
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.core.problem import Array
from solver_service.milp.core.solution import safe_bound
from solver_service.milp.final_layer.constrained_search import best_solution, taker
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.final_layer.job import Job, allowance, options_of, too_large
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel, constrained_model
from solver_service.milp.formulation.constraints.parts import Part, grow, plain_rows
from solver_service.milp.rounding.into_box import change_of

ROUNDS = 200
STALLED = 1e-7
"""A round that raises the model's value by no more than this share has nothing left to cut off."""


class Tangents:
    """A search that goes on where it ended: the tangents so far, and whether nothing is left to do."""

    def __init__(self, job: Job, program: ConvexProgram, points: list[Array]) -> None:
        """Begin with the tangents at some points [h, c] and at the best weights."""
        self._job, self._program, self._rounds = job, program, 0
        self._tangents = [_tangent(program, point) for point in [*points, _best(job)]]
        self._base: ConstrainedModel | None = None
        self.done = too_large(job)

    def run(self, patience: int) -> None:
        """Solve the model, round by round, and offer what it finds, until so many in a row have gained nothing."""
        job, incumbents, idle, reached = self._job, self._job.incumbents, 0, (0.0, math.inf)
        while not (self.done or job.proven or job.budget().over) and idle < patience:
            bound = self._round()
            now = (bound, incumbents.best.objective)
            idle, reached = 0 if _gained(reached, now) else idle + 1, now

    def _round(self) -> float:
        """One round; the model's bound."""
        job, problem, incumbents = self._job, self._job.problem, self._job.incumbents
        if self._base is None:
            self._base = constrained_model(problem, job.screened, NO_CUTS, problem.constraints)
        outcome, found = _solved(job, _with_loss(self._base, self._program, self._tangents))
        self._rounds += 1
        self.done = outcome.status is SolveStatus.INFEASIBLE or self._rounds >= ROUNDS
        if outcome.status is SolveStatus.INFEASIBLE:
            return math.inf
        incumbents.raise_bound(safe_bound(outcome.bound, integral=False))
        if found is None or incumbents.best.objective - incumbents.bound <= allowance(job):
            self.done = True
            return outcome.bound
        change = found[: problem.columns].reshape(problem.radius.shape)
        self._tangents += [_tangent(self._program, np.clip(change, -1.0, 1.0)), _tangent(self._program, _best(job))]
        if self._program.smooth(change)[0] - found[-1] <= STALLED * incumbents.best.objective:
            self.done = True
        return outcome.bound


def _gained(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Whether the bound is higher, or the best value lower, by more than rounding."""
    room = STALLED * after[1]
    return after[0] > before[0] + room or after[1] < before[1] - room


def _solved(job: Job, built: ConstrainedModel) -> tuple[Outcome, Array | None]:
    """One run of the solver, and the last solution that it came upon."""
    take = taker(job.problem, built, job.incumbents, lambda: job.budget().over)
    found: list[Array] = []

    def keep(solution: Array, bound: float, nodes: int) -> None:
        found.append(solution)
        take(solution, bound, nodes)

    start = best_solution(job.problem, built, job.incumbents)
    outcome = milp_solver(job.spec.solver.backend)(built.model, options_of(job), job.control, keep, start)
    return outcome, found[-1] if found else None


def _best(job: Job) -> Array:
    return change_of(job.problem, job.incumbents.best.weight, job.incumbents.best.bias)


def _tangent(program: ConvexProgram, change: Array) -> tuple[Array, float]:
    """Slope [h c] and height at 0 of the loss's tangent at a change [h, c]."""
    value, gradient = program.smooth(change)
    return gradient.ravel(), value - float((gradient * change).sum())


def _with_loss(base: ConstrainedModel, program: ConvexProgram, tangents: list[tuple[Array, float]]) -> ConstrainedModel:
    """The model with theta as its last column, and a row `theta - slope . x >= height` for each tangent."""
    columns, count = base.model.columns, len(tangents)
    slopes = sp.csr_array(-np.array([slope for slope, _ in tangents]))
    nothing = sp.csr_array((count, columns - slopes.shape[1]))
    matrix = sp.csr_array(sp.hstack([slopes, nothing, sp.csr_array(np.ones((count, 1)))], format="csr"))
    rows = plain_rows(matrix, np.array([height for _, height in tangents]))
    theta = Part(
        rows=rows,
        complete=lambda change: np.array([program.smooth(change)[0]]),
        objective=np.ones(1),
        lower=np.zeros(1),
        upper=np.full(1, np.inf),
    )
    return replace(
        base,
        model=grow(base.model, [theta]),
        strict=np.concatenate([base.strict, rows.strict]),
        switch=np.concatenate([base.switch, rows.switch]),
        on=np.concatenate([base.on, rows.on]),
        tying=np.concatenate([base.tying, rows.tying]),
        parts=(*base.parts, theta),
    )
