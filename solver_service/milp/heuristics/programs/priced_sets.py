"""Searches over which samples to keep where floors and gaps ask for some of them: what falls short weighs more."""

from collections.abc import Generator, Iterator

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Mask, Problem
from solver_service.milp.heuristics.programs.elastic_filter import KICK, dropping, offer_kept, widened
from solver_service.milp.heuristics.programs.kept_search import BETTER, Found, Search
from solver_service.milp.heuristics.programs.lazy_lp import LazyProgram
from solver_service.milp.heuristics.programs.majorise import descend, flip_some
from solver_service.milp.heuristics.walks.margin_lines import MarginLines
from solver_service.milp.heuristics.walks.multipliers import Multipliers
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents

MENDING = 40
"""Line searches that mend what a solution breaks by a few samples."""
RELEARN = 20
"""Steps in a row without a gain after which the multipliers are moved again: they may be higher than they need be."""


class PricedSets:
    """A strategy: each `advance` is about one linear program.

    A search over kept samples minimises `sum_n cost_n exp(sum_f theta_f [n in set f]) loss_n`. What it finds is looked
    at: sets whose share of right samples is too small have their theta raised (see `Multipliers`), and their samples
    are all wanted again. Where all shares are kept, some decisions are turned, as without constraints. Of sets whose
    worst rate is the objective, those that are worse than their mean count as too small.
    """

    def __init__(
        self, problem: Problem, screened: Screened, incumbents: Incumbents, budget: Budget, rng: np.random.Generator
    ) -> None:
        self._problem, self._incumbents, self._tally = problem, incumbents, Tally.of(problem)
        self._capped = screened.requirements.style == "capped"
        wanted = screened.requirements if self._capped else widened(screened.requirements)
        program = LazyProgram(problem, wanted, should_stop=lambda: self._search.budget.over, on_change=incumbents.offer)
        began, price = budget.control.elapsed, screened.requirements.cost
        self._search = Search(problem, screened, program, incumbents, budget, rng, began, resumed=False, price=price)
        self._lines = MarginLines(problem, self._tally)
        self._walk = Walk(problem, self._tally, rng)
        self._multipliers = Multipliers(self._tally)
        # [groups]: the cell of the sample that each group is of.
        sample = np.zeros(screened.requirements.groups, dtype=np.int64)
        sample[screened.requirements.group] = screened.requirements.sample
        self._cell = self._tally.cell[sample]
        self._steps: Iterator[None] = self._run()

    def advance(self, budget: Budget) -> bool:
        """One step; False once the search has shown all it has."""
        self._search.budget = budget
        return next(self._steps, self) is None

    def _run(self) -> Iterator[None]:
        search, idle = self._search, 0
        best: Found | None = None
        wanted = np.ones(self._cell.size, dtype=bool)
        while True:
            found = yield from self._descended(wanted)
            if found is None and not search.budget.over:
                return  # the program has troubles of its own
            yield
            if found is None:
                continue  # stopped on the way: the next slice begins at the same set again
            right = self._right(found.point.change)
            short = self._multipliers.short(right)[self._cell]
            if short.any():
                self._mend(found.point.change)
                self._reprice(right)
                best, wanted = None, found.kept | short
                continue
            if best is None or found.loss < best.loss - BETTER:
                best, idle = found, 0
                if not self._capped:
                    offer_kept(search, found)
            else:
                idle += 1
            if idle >= RELEARN:
                self._reprice(right)
                best, idle, wanted = None, 0, found.kept
                continue
            wanted = self._turned(best.kept)

    def _descended(self, wanted: Mask) -> Generator[None, None, Found | None]:
        if self._capped:
            return descend(self._search, wanted)
        return (yield from dropping(self._search, wanted.copy()))

    def _turned(self, kept: Mask) -> Mask:
        """Some decisions the other way: a ramp's either way, a count's dropped samples are wanted again."""
        if self._capped:
            return flip_some(kept, self._search.rng)
        dropped, turned = np.flatnonzero(~kept), kept.copy()
        turned[self._search.rng.choice(dropped, min(KICK, dropped.size), replace=False)] = True
        return turned

    def _right(self, change: Array) -> Array:
        """The weights [c + p] that the tally looks at."""
        return self._lines.counted(self._problem.scores_at(change), self._lines.guard)

    def _reprice(self, right: Array) -> None:
        self._multipliers.learn(right)
        self._search.price = self._search.screened.requirements.cost * self._multipliers.factors[self._cell]

    def _mend(self, change: Array) -> None:
        """Offer what becomes of a change that breaks the constraints by a few samples."""
        self._walk.goto(change)
        if self._walk.mend(MENDING, lambda: self._search.budget.over):
            self._incumbents.offer(self._walk.change)
