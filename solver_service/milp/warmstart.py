"""Good solutions before any branching: majorise-minimise for ramp, elastic filters for counts, and restarts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from solver_service.milp.budget import Budget
from solver_service.milp.elastic import ElasticPoint, ElasticProgram
from solver_service.milp.finish import finish_count
from solver_service.milp.incumbents import Incumbents
from solver_service.milp.problem import Mask, Problem
from solver_service.milp.reduction import Screened
from solver_service.milp.requirements import Requirements

WIDTH = 0.005
"""How far beyond the need the elastic filter pulls (FORMULATIONS, "Starts and heuristics")."""
DROP_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Found:
    """A solution of the reduced problem: its loss there, its change, and the groups that it keeps."""

    loss: float
    point: ElasticPoint
    kept: Mask


def improve(problem: Problem, screened: Screened, incumbents: Incumbents, budget: Budget, seed: int) -> None:
    """Offer better and better solutions until the budget, or the hope for better ones, is used up."""
    search = _RampSearch if screened.requirements.style == "capped" else _CountSearch
    search(problem, screened, incumbents, budget, np.random.default_rng(seed)).run()


class _Search(ABC):
    """What both searches share: one elastic program, and the best solution so far."""

    def __init__(
        self,
        problem: Problem,
        screened: Screened,
        incumbents: Incumbents,
        budget: Budget,
        rng: np.random.Generator,
    ) -> None:
        self.problem, self.screened, self.incumbents = problem, screened, incumbents
        self.budget, self.rng = budget, rng
        self.requirements = self.goal(screened.requirements)
        self.program = ElasticProgram(problem, self.requirements, should_stop=lambda: budget.over)
        self.best: Found | None = None

    def goal(self, requirements: Requirements) -> Requirements:
        """What the elastic program should pull towards."""
        return requirements

    @abstractmethod
    def descend(self, active: Mask) -> Found | None:
        """One descent from a set of groups that the program should satisfy."""

    def perturb(self, kept: Mask) -> Mask:
        """A neighbour of a set of groups, to descend from."""
        flipped = kept.copy()
        most = min(25, kept.size)
        chosen = self.rng.choice(kept.size, self.rng.integers(min(3, most), most + 1), replace=False)
        flipped[chosen] = ~flipped[chosen]
        return flipped

    def run(self) -> None:
        """Descend from everything, then from perturbations of the best until nothing more comes of it."""
        active, idle = np.ones(self.requirements.groups, dtype=bool), 0
        while not self.budget.over and idle <= self.budget.rounds and not self.proven:
            found = self.descend(active)
            better = found is not None and (self.best is None or found.loss < self.best.loss - 1e-9)
            idle = 0 if better else idle + 1
            if better:
                self.best = found
            if self.best is None:
                return
            active = self.perturb(self.best.kept)

    @property
    def proven(self) -> bool:
        """True when nothing better can be found."""
        return self.incumbents.best.objective <= self.incumbents.bound


class _RampSearch(_Search):
    """ramp = min over kept sets A of (hinge over A) + (cost of the others): solve, re-choose A, repeat."""

    def descend(self, active: Mask) -> Found | None:
        best: Found | None = None
        cost = self.requirements.cost
        while not self.budget.over:
            point = self.program.solve(np.where(active, cost, 0.0))
            if point is None:
                break
            loss = float(self.requirements.losses(point.shortfalls).sum())
            if best is not None and loss >= best.loss - 1e-9:
                break
            active = point.shortfalls < 1.0
            best = Found(loss, point, active)
            if self.best is None or loss < self.best.loss:
                self.incumbents.offer(point.change)
        return best


class _CountSearch(_Search):
    """Chinneck's elastic filter: drop what costs the most until the rest can be had, then try to have more."""

    def goal(self, requirements: Requirements) -> Requirements:
        return widened(requirements)

    def descend(self, active: Mask) -> Found | None:
        found = self._filter(active.copy())
        if found is not None and (self.best is None or found.loss <= self.best.loss):
            found = self._readmit(found)
            self._offer(found)
        return found

    def _filter(self, active: Mask) -> Found | None:
        """Drop the group with the largest slack times price until all others are met."""
        while not self.budget.over:
            point = self.program.solve(np.where(active, self.requirements.cost, 0.0))
            if point is None:
                return None
            met = self._met(point)
            missed = np.flatnonzero(active & ~met)
            if missed.size == 0:
                return Found(float(self.requirements.cost[~met].sum()), point, met)
            blame = point.shortfalls[missed] * (point.prices[missed] + 1e-12) / self.requirements.cost[missed]
            drop = max(1, int(DROP_SHARE * missed.size))
            active[missed[np.argsort(-blame)[:drop]]] = False
        return None

    def _readmit(self, found: Found) -> Found:
        """Take groups back one at a time, where that costs no other group more."""
        for group in np.flatnonzero(~found.kept)[np.argsort(found.point.shortfalls[~found.kept])]:
            if self.budget.over:
                break
            if found.kept[group]:
                continue
            wanted = found.kept.copy()
            wanted[group] = True
            tried = self._filter(wanted)
            if tried is not None and tried.loss < found.loss - 1e-9:
                found = tried
        return found

    def _met(self, point: ElasticPoint) -> Mask:
        original = self.screened.requirements
        return original.shortfalls(point.values) <= 0

    def _offer(self, found: Found) -> None:
        claimed = found.loss + self.screened.cost
        if claimed >= self.incumbents.best.objective:
            return
        if self.incumbents.offer(found.point.change) > claimed:
            finish_count(self.problem, self.screened, self.incumbents, found.kept, lambda: self.budget.over)


def widened(requirements: Requirements) -> Requirements:
    """The same requirements with a little more to pull for than is needed, in proportion to what can move."""
    width = min(WIDTH, 0.1 * float(np.median(requirements.reach)))
    return replace(requirements, need=requirements.need + width)
