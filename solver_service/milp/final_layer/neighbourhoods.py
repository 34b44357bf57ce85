"""Branching around the best solution: decisions stay as they are, but for those of some samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np

from shared.contracts import SolveStatus
from solver_service.errors import SolverError
from solver_service.milp.backends.registry import milp_solver
from solver_service.milp.bounds.pair_relaxation import owners
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Mask
from solver_service.milp.final_layer.constrained_search import best_solution, taker
from solver_service.milp.final_layer.job import Job, options_of
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel

FIRST, LEAST = 60, 10
"""Samples whose decisions are free at first, and at least."""
GROWS, SHRINKS = 1.3, 0.7
"""What becomes of their number after a try that was done without a gain, and after one that ran out of time."""
TRY_S, TRY_SHARE = 3.0, 0.2
"""Seconds for one try, at most, and of the time that is left."""
LEAST_S = 0.1
"""It gets these seconds besides."""
ROOT_ROUNDS = 2
JITTER = 0.3
"""By how much, as a share, distances between samples are disturbed, so that no two tries are the same."""


@dataclass(eq=False)
class Neighbourhoods:
    """A strategy: each `advance` is one try (large neighbourhood search; Shaw, 1998; Danna et al., 2005).

    Three kinds take turns: samples that are almost on the line between right and wrong, samples that are like one
    another, and any samples. Each kind has its own size, which follows what a solver can finish.
    """

    job: Job
    built: ConstrainedModel
    rng: np.random.Generator
    sizes: dict[str, float] = field(init=False)
    """Samples that are free next time, by kind."""

    def __post_init__(self) -> None:
        requirements = self.built.requirements
        # [columns]: whose decision an integer column is. Those that are no single sample's stay free.
        owner = owners(self.built.columns, requirements, self.built.extension.sample)
        self._fixable = self.built.model.integer & (owner >= 0) & (owner < requirements.groups)
        self._owner = np.where(self._fixable, owner, 0)
        self._sample = np.zeros(requirements.groups, dtype=np.int64)
        self._sample[requirements.group] = requirements.sample
        kinds = {"on the line": self._on_the_line, "alike": self._alike, "any": self._any}
        self.sizes = dict.fromkeys(kinds, float(min(FIRST, requirements.groups)))
        self._turns: Iterator[tuple[str, Callable[[Array], Array]]] = cycle(kinds.items())

    def advance(self, budget: Budget) -> bool:
        """One try; False where there is nothing to redo."""
        solution = best_solution(self.job.problem, self.built, self.job.incumbents)
        if solution is None or not self._fixable.any():
            return False
        kind, distance = next(self._turns)
        free = np.zeros(self.built.requirements.groups, dtype=bool)
        free[np.argsort(distance(solution), kind="stable")[: int(self.sizes[kind])]] = True
        before = self.job.incumbents.best.objective
        status = self._solve(solution, self._fixable & ~free[self._owner], budget)
        if self.job.incumbents.best.objective >= before:
            change = GROWS if status is SolveStatus.OPTIMAL else SHRINKS
            self.sizes[kind] = float(np.clip(change * self.sizes[kind], LEAST, max(LEAST, free.size)))
            if status is not SolveStatus.OPTIMAL and free.sum() <= LEAST:
                return False
        # With everything free and nothing found, there is nothing better.
        return not (status is SolveStatus.OPTIMAL and free.all())

    def _solve(self, solution: Array, fixed: Mask, budget: Budget) -> SolveStatus:
        """Branch on what is not fixed [columns]; solutions are offered as they come."""
        job, model = self.job, self.built.model
        lower, upper = model.lower.copy(), model.upper.copy()
        lower[fixed] = upper[fixed] = np.rint(solution[fixed])
        options = options_of(job)
        left = max(0.0, budget.until - job.control.elapsed)
        limit = min(left, TRY_S, LEAST_S + TRY_SHARE * options.time_s)
        options = replace(options, time_s=min(limit, options.time_s), root_rounds=ROOT_ROUNDS)
        take = taker(job.problem, self.built, job.incumbents, lambda: budget.over)
        try:
            branched = replace(model, lower=lower, upper=upper)
            return milp_solver(job.spec.solver.backend)(branched, options, job.control, take, solution).status
        except SolverError:
            # Numerical trouble in one neighbourhood is no reason to give up on the others.
            return SolveStatus.TIME_LIMIT

    def _on_the_line(self, solution: Array) -> Array:
        requirements, problem = self.built.requirements, self.job.problem
        values = requirements.values(problem, solution[: problem.columns].reshape(problem.radius.shape))
        lack = np.full(requirements.groups, -np.inf)
        np.maximum.at(lack, requirements.group, requirements.need - values)
        return np.asarray(np.abs(lack) * self.rng.exponential(size=lack.size))

    def _alike(self, _: Array) -> Array:
        inputs = self.job.problem.inputs[self._sample]
        centre = inputs[self.rng.integers(len(inputs))]
        squared = ((inputs - centre) ** 2).sum(axis=1)
        return np.asarray(squared * self.rng.uniform(1 - JITTER, 1 + JITTER, size=len(inputs)))

    def _any(self, _: Array) -> Array:
        return self.rng.random(self._sample.size)
