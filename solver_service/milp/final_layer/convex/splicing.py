"""Which weights are not 0: those that matter least are exchanged for those that would gain most, many at first.

Best-subset selection by splicing (Zhu, Wen, Zhu, Zhang and Wang 2020): with the support held, a convex program fits all
other weights; of a weight in it `H w^2 / 2` says what it loses at 0, of one at 0 `g s + H s^2 / 2` what a step gains.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from shared.constraints import selected
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.final_layer.convex.exchanges import NEAR, Exchanges, Fit
from solver_service.milp.final_layer.convex.program import ConvexProgram, Minimum
from solver_service.milp.final_layer.convex.stand_in import stand_in
from solver_service.milp.final_layer.job import Job
from solver_service.milp.rounding.incumbents import Incumbents

GROWN = 20
"""In so many parts, at most, a support is grown."""
LOOKS, WORK = (40, 2000), 2e8
"""So many looks at a program are a fit that is good enough to compare: as many as this work, within the range."""
CLOSE, GAIN = 1e-4, 1e-6
"""The relative gap at which a fit is good enough to compare, and the part of the value that an exchange has to gain."""
COUNTED_SHARE, LOOSE = 0.25, 1e-2
"""Of the time, for a stand-in of what is counted; the gap to which its minimum without zeros is sought."""
KICKED, PATIENCE = 0.1, 20
"""Which part of the support is exchanged at random where no exchange gains, and how often that may not help."""
PAIRS = 10
"""By the clock, once more for as many pairs of a weight in the support and one outside: small ones are soon known."""


def splice(job: Job, program: ConvexProgram, start: Array, budget: Budget) -> None:
    """Look for the weights that may differ from 0 by a convex program, from its minimum; only where that is asked."""
    problem, shape = job.problem, job.problem.snapshot.weight.shape
    types = {constraint.type for constraint in problem.constraints}
    if "max_nonzero" not in types or types.intersection(("grid", "levels")):
        return
    sparse = [
        (selected(constraint, shape), int(min(constraint.value, selected(constraint, shape).sum())))
        for constraint in problem.constraints
        if constraint.type == "max_nonzero"
    ]
    rng = np.random.default_rng([job.spec.solver.seed, 5])
    search = Splicing(program, job.incumbents, sparse, program.box, rng, lambda: budget.over or job.proven)
    search.patient, search.exact = budget.timed, program.problem.objective == problem.objective
    search.run(start)
    job.incumbents.tell("splicing")


def splice_counts(job: Job) -> None:
    """The same for what is no convex program, by the one that stands in for it: cross-entropy, or Huber's loss."""
    problem = job.problem
    if not any(constraint.type == "max_nonzero" for constraint in problem.constraints):
        return
    program = stand_in(problem)
    budget = job.budget().share(COUNTED_SHARE)
    change = job.incumbents.whole_change
    splice(job, program, program.minimise(*program.box, change, lambda: budget.over, LOOSE).change, budget)


@dataclass(eq=False)
class Splicing:
    """The search of one program; `sparse` says which weights [h, d] are counted, and how many may differ from 0.

    `kept` [h, d] are weights that the box does not let be 0. `box` are the lowest and the highest change [h, c].
    An `exact` program is the objective itself, no stand-in for it. A `patient` search tries more kicks the more
    supports there are, for as long as its share of the time lasts.
    """

    program: ConvexProgram
    incumbents: Incumbents
    sparse: list[tuple[Mask, int]]
    box: tuple[Array, Array]
    rng: np.random.Generator
    over: Callable[[], bool]
    patient: bool = False
    exact: bool = True

    def __post_init__(self) -> None:
        problem = self.program.problem
        radius = problem.radius[:, :-1]
        self.zero = np.divide(-problem.center[:, :-1], radius, out=np.zeros_like(radius), where=radius > 0)
        self.kept = (np.abs(self.zero) > 1.0) | ((radius == 0) & (problem.center[:, :-1] != 0))
        self.steep = self.program.steepness()[:, :-1]
        # [n, h], the scores of a block of nothing, also where its biases or some weights cannot move.
        self.silent = problem.scores - problem.inputs @ problem.center.T

    def run(self, start: Array) -> None:
        """From those that gain step by step, and from what matters most at a change [h, c]; then from kicks."""
        one_by_one = Exchanges.of(self.program, self.silent, self.sparse, self.kept)
        if one_by_one is not None:
            self._exchange(one_by_one, start)
            return
        ends = [self._improved(begin(start), start) for begin in (self._grown, self._pruned) if not self.over()]
        if not ends:
            return
        best, found = min(ends, key=lambda end: end[1].value)
        waited, patience = 0, self._patience()
        while waited < patience and not self.over():
            other, reached = self._improved(self._exchanged(best, found, KICKED, at_random=True), found.change)
            waited += 1
            if reached.value < found.value * (1 - GAIN):
                best, found, waited = other, reached, 0

    def _patience(self) -> int:
        """How many kicks in a row may not help."""
        pairs = sum(most * max(0, int(chosen.sum()) - most) for chosen, most in self.sparse)
        return PATIENCE + (pairs // PAIRS if self.patient else 0)

    def _exchange(self, search: Exchanges, start: Array) -> None:
        """By exact exchanges, from a support grown a column at a time, and from what matters most; then from kicks."""
        pruned = np.intersect1d(np.flatnonzero(self._pruned(start)[0]), search.candidates)[: search.most]
        seen: set[bytes] = set()
        best = self._ended(search, search.grown(pruned[:0]), np.inf, seen)
        waited, patience, tried = 0, self._patience(), search.grown(pruned)
        while waited < patience and not self.over():
            found = self._ended(search, tried, best.value, seen)
            waited += 1
            if found.value < best.value * (1 - GAIN):
                best, waited = found, 0
            tried = search.kicked(best, self.rng)

    def _ended(self, search: Exchanges, begin: Fit, least: float, seen: set[bytes]) -> Fit:
        """Where exchanges end; offered, fitted to the box, where it is new and near to the least value."""
        found = search.exchanged(begin, self.over)
        key = np.sort(search.support(found)).tobytes()
        if key not in seen and found.value < least * (1.0 if self.exact else NEAR):
            self._offer(found, to_the_end=found.value < least)
        seen.add(key)
        return found

    def _offer(self, fit: Fit, *, to_the_end: bool) -> None:
        """A fit as it is, which is soon done, and the program's best ones fitted to the end."""
        problem, change = self.program.problem, np.pad(self.zero, ((0, 0), (0, 1)))
        radius, way = problem.radius[0, fit.columns], fit.weights - problem.center[0, fit.columns]
        change[0, fit.columns] = np.divide(way, radius, out=np.zeros_like(way), where=radius > 0)
        self.incumbents.offer_whole(change)
        if to_the_end:
            support = ~self.sparse[0][0] | self.kept
            support[0, fit.columns[fit.columns < support.shape[1]]] = True
            self._fitted(support, change)

    def _pruned(self, change: Array) -> Mask:
        """The weights [h, d] that would lose most at 0."""
        lost, support = self._lost(change), np.ones_like(self.kept)
        for chosen, most in self.sparse:
            support &= ~chosen | self._largest(lost, chosen, most)
        return np.asarray(support | self.kept)

    def _grown(self, change: Array) -> Mask:
        """A part at a time of what gains most at the fit before: of columns that say the same, one is taken."""
        support = np.ones_like(self.kept)
        for chosen, _ in self.sparse:
            support &= ~chosen
        support |= self.kept
        parts = min(GROWN, max(most for _, most in self.sparse))
        for part in range(1, parts + 1):
            if self.over():
                break
            found = self._fitted(support, change)
            change, (_, gradient) = found.change, self.program.smooth(found.change)
            gained = self._gained(change[:, :-1], gradient[:, :-1])
            for chosen, most in self.sparse:
                wanted = -(-most * part // parts) - int((support & chosen).sum())
                support = support | self._largest(gained, chosen & ~support, max(0, wanted))
        return np.asarray(support)

    def _improved(self, support: Mask, start: Array) -> tuple[Mask, Minimum]:
        """Exchanges that gain, of half as many weights each time that none does."""
        found = self._fitted(support, start)
        share, most = 0.5, max(number for _, number in self.sparse)
        while share * most >= 0.5 and not self.over():
            tried = self._exchanged(support, found, share)
            other = found if (tried == support).all() else self._fitted(tried, found.change)
            if other.value < found.value * (1 - GAIN):
                support, found = tried, other
            else:
                share /= 2
        return support, found

    def _fitted(self, support: Mask, start: Array) -> Minimum:
        """The other weights fitted to a support [h, d], by a program of the columns that are left."""
        lower, upper = (side.copy() for side in self.box)
        for side in (lower, upper):
            side[:, :-1][~support] = self.zero[~support]
        columns, looks = self._columns(support), count(1)
        most = int(np.clip(WORK / (len(self.silent) * columns.size * len(support)), *LOOKS))
        found = self.program.of_columns(columns, self.silent).minimise(
            lower[:, columns],
            upper[:, columns],
            start[:, columns],
            lambda: next(looks) > most or self.over(),
            CLOSE,
        )
        change = np.pad(self.zero, ((0, 0), (0, 1)))
        change[:, columns] = found.change
        self.incumbents.offer_whole(change)
        return replace(found, change=change)

    def _columns(self, support: Mask) -> Index:
        """The columns, the bias's among them, in which any weight may differ from 0; all where movement has a price."""
        if self.program.prices.any():
            return np.arange(support.shape[1] + 1)
        return np.append(np.flatnonzero(support.any(axis=0)), support.shape[1])

    def _lost(self, change: Array) -> Array:
        """What each weight [h, d] would lose at 0."""
        return np.asarray(self.steep * (change[:, :-1] - self.zero) ** 2 / 2)

    def _gained(self, change: Array, gradient: Array) -> Array:
        """What a step of each weight [h, d] from where it is would gain."""
        steep = np.where(self.steep > 0, self.steep, 1.0)
        step = np.clip(change - gradient / steep, -1.0, 1.0) - change
        return np.asarray(-(gradient * step + steep * step**2 / 2))

    def _exchanged(self, support: Mask, found: Minimum, share: float, *, at_random: bool = False) -> Mask:
        """The support after a share of it, the least or any, is exchanged for the weights that gain most."""
        _, gradient = self.program.smooth(found.change)
        lost = self._lost(found.change)
        gained = self._gained(found.change[:, :-1], gradient[:, :-1])
        tried = support.copy()
        for chosen, most in self.sparse:
            inside, outside = support & chosen & ~self.kept, chosen & ~support
            many = min(max(1, int(share * most)), int(inside.sum()), int(outside.sum()))
            if many <= 0:
                continue
            if at_random:
                lost = self.rng.random(lost.shape)
            tried &= ~self._largest(-lost, inside, many)
            tried |= self._largest(gained, outside, many)
        return tried

    @staticmethod
    def _largest(values: Array, among: Mask, many: int) -> Mask:
        """Where the largest of some values are."""
        found = np.zeros_like(among)
        order = np.argsort(np.where(among, -values, np.inf), axis=None, kind="stable")
        found.flat[order[: min(many, int(among.sum()))]] = True
        return found
