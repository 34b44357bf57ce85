"""A job's model with its constraints: built when it is asked for, bounded, and taught what bounding has learnt."""

from functools import cached_property

import numpy as np

from solver_service.milp.bounds.pair_relaxation import PairRelaxation
from solver_service.milp.final_layer.bounding import bound_by_blocks, bound_by_conflicts, relaxed, solve_relaxation
from solver_service.milp.final_layer.constrained_search import polish_best
from solver_service.milp.final_layer.job import Job, too_large
from solver_service.milp.final_layer.neighbourhoods import Neighbourhoods
from solver_service.milp.formulation.compact import NO_CUTS
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel, constrained_model
from solver_service.milp.formulation.rows import nonzeros

SMALL, TINY = 20_000, 2_000
"""Models of so few coefficients are branched on with success, and proven infeasible."""
BUILT_PER_S, MODELLED_PER_S = 1_000_000, 150_000
"""Coefficients for each second that is left, at most: to build and bound a model; to look with a branching solver for
what keeps the constraints."""
BRANCHED_PER_S, BRANCHED_AROUND_PER_S = 30_000, 60_000
"""The same to find something better with it; with most decisions kept as they are."""
BLOCK_SHARE, UNBRANCHED_SHARE = 0.6, 0.9
"""Of the time left after the relaxation, for blocks of samples, where a model is not small; where nobody branches."""
PAYS = 1e-3
"""The least gain, as a share, after which decisions are kept again."""


class JobModel:
    """What a job under constraints knows of its model; nothing is built before it is needed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.linear = job.screened.requirements.style == "linear"
        # About how many coefficients it has, with rows and binaries that count.
        self.size = 3 * nonzeros(job.space, job.screened.requirements)
        self._relaxation: PairRelaxation | None = None

    @cached_property
    def built(self) -> ConstrainedModel:
        """The model, without anything that is learnt on the way."""
        return constrained_model(self.job.problem, self.job.screened, NO_CUTS, self.job.problem.constraints)

    @property
    def bounded(self) -> bool:
        """Whether there is the time to build it and to bound it."""
        return self._fits(BUILT_PER_S)

    @property
    def small(self) -> bool:
        """Whether a solver branches on it with success."""
        return self._fits(MODELLED_PER_S) and self.size <= SMALL

    @property
    def tiny(self) -> bool:
        """Whether a solver is done with it at once."""
        return self.small and self.size <= TINY

    def branching_pays(self, share: float = 1.0) -> bool:
        """Whether a branching solver would come beyond its first nodes in a share of the time that is left.

        It has to look where nothing is feasible.
        """
        searched = not (self.linear or self.job.incumbents.feasible)
        return self._fits(share * (MODELLED_PER_S if self.linear or searched else BRANCHED_PER_S))

    def bound(self) -> None:
        """A first bound, from conflicts and the relaxation."""
        job = self.job
        over = not job.screened.requirements.rows or job.proven or job.budget().over
        if self._relaxation is None and self.bounded and not (over or self.linear):
            self._relaxation = relaxed(job, bound_by_conflicts(job), self.built.extension)

    def bound_to_the_end(self) -> None:
        """The relaxation solved, and raised by blocks of samples."""
        self.bound()
        if self._relaxation is not None:
            solve_relaxation(self.job, self._relaxation)
            if self.size > SMALL:
                share = BLOCK_SHARE if self.branching_pays(1 - BLOCK_SHARE) else UNBRANCHED_SHARE
                bound_by_blocks(self.job, self._relaxation, share)

    def learnt(self) -> ConstrainedModel:
        """The model with the cuts and the blocks' rows that bounding left."""
        if self._relaxation is None:
            return self.built
        return self.built.plus(self._relaxation.learnt.matrix, self._relaxation.learnt.lower)

    def keep_decisions(self) -> None:
        """What a ramp's best solution decides is kept, and a linear program finds the rest, as often as that gains."""
        job, incumbents = self.job, self.job.incumbents
        while job.screened.requirements.style == "capped" and incumbents.feasible and not job.budget().over:
            before = incumbents.best.objective
            polish_best(job.problem, self.built, incumbents, lambda: job.budget().over)
            incumbents.tell("decisions kept, a linear program for the rest")
            if before - incumbents.best.objective <= PAYS * before:
                return

    def search_around(self) -> None:
        """Let a solver branch around a count's best solution, in turns with the other searches, where that pays."""
        job = self.job
        if job.screened.requirements.style == "count" and job.incumbents.feasible and self._fits(BRANCHED_AROUND_PER_S):
            rng = np.random.default_rng([job.spec.solver.seed, 2])
            job.improver.also("branching around the best", Neighbourhoods(job, self.learnt(), rng))

    def _fits(self, per_s: float) -> bool:
        """Whether it fits the memory and, unless nodes are counted, the time that is left."""
        job = self.job
        in_time = job.spec.limits.nodes is not None or self.size <= per_s * (job.deadline - job.control.elapsed)
        return in_time and not too_large(job)
