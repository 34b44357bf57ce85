"""Descents on all samples at once while counts grow sharp: wide sigmoids first, which see samples that are far off."""

from dataclasses import dataclass, field

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.problem import MEANS, Array, Index, Problem
from solver_service.milp.heuristics.descents.annealed_counts import PRICE, RAISED_EVERY, AnnealedCounts
from solver_service.milp.heuristics.descents.annealed_each import AnnealedEach
from solver_service.milp.heuristics.descents.few_values import FewValues
from solver_service.milp.heuristics.descents.moments import Moments
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision, Singles
from solver_service.milp.heuristics.descents.weight_prices import WeightPrices
from solver_service.milp.heuristics.walks.mending import offer_mended
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.walk import Walk
from solver_service.milp.rounding.incumbents import Incumbents

FIRST, STEPS, FEWEST = 300, 400, 60
"""Steps of the first descent and of later ones; of one that would take more than its part of the time, at least."""
PART = 0.4
"""Of the time that is left, for one descent at most."""
TIMED, AT_A_TIME = 5, 20
"""After so many steps it is known what one takes; so many are an `advance`, but the first descent is one as a whole."""
RATE, KICK = 0.05, 0.2
"""Adam's rate in radii, falling to 0 as a cosine; how far from the best later descents begin."""
WIDEST, NARROWEST = 1.0, (0.02, 0.05)
"""The sigmoid's width where a descent begins and, in turns, where it ends: in standard deviations of the scores."""
STEPPED_RATE, STEPPED_KICK, STEPPED_NARROWEST = 0.1, 0.05, (0.02, 0.005)
"""The same where weights take few values: from one to the next it is far, and from anywhere near it leads back."""
ALL, BATCH, BATCHES, LACK_FADES = 4096, 512, 4, 0.05
"""Of more samples than the first each step takes a batch, and there are so many times as many steps; what shares lack
is a running mean, into which each batch goes by the last."""
SOME, LEAST_BATCHES = 20, 8
"""Samples of each set in a batch; all are taken where fewer batches than that would do."""
WIDE = 2.0
"""Where entries at their pace move scores by more than so many times their spread, all steps are that much shorter."""
ROUNDED = 0.01
"""How far the kink of what movement costs is rounded off, in radii."""
THINNED, OFFERED, OFFERED_EVERY = 0.3, 0.4, 10
"""Where weights take few values: until which part of a descent more and more are held at 0 (as a cube, Zhu and Gupta
2017), and from which and how often it is offered on its way."""


@dataclass(eq=False)
class _Descent:
    """Where one descent is: its change [h, c], multipliers, what shares lack, Adam's means, the steps it is to take.

    `spread` is the standard deviation of the scores where it begins, `pace` [h, c] how large a step is, in radii.
    """

    change: Array
    steps: int
    narrowest: float
    spread: float
    pace: Array
    multipliers: Array
    lack: Array
    moments: Moments

    @property
    def done(self) -> int:
        """How many it has taken."""
        return self.moments.done


@dataclass(eq=False)
class AnnealedDescents:
    """A strategy: projected Adam from the incumbent, then from anywhere near the best; `advance` takes a few steps."""

    problem: Problem
    tally: Tally
    block: SinglePrecision
    incumbents: Incumbents
    walk: Walk
    rng: np.random.Generator
    reproducible: bool
    _runs: int = 0
    _now: _Descent | None = None
    _counts: AnnealedCounts | AnnealedEach = field(init=False)
    _order: Index = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        single = self.problem.snapshot.task in ("classification", "binary")
        self._counts = (
            AnnealedCounts.of(self.problem, self.tally, self.block.unit)
            if single
            else AnnealedEach.of(self.problem, self.block.unit)
        )
        self._batch = self._batch_size()
        self._few = FewValues.of(self.problem)
        self._stepped = self._few is not None and self._few.stepped
        self._spread: float | None = None
        if self._few is not None:
            # What there is now is far from any grid or list: scores anywhere in the box say more.
            anywhere = self.rng.uniform(-1.0, 1.0, self.problem.radius.shape).astype(np.float32)
            moved = self.block.inputs @ (self.block.reach * anywhere).T
            self._spread = max(float(self.block.scores.std()), float(moved.std()))
        mean = self.problem.objective.name in MEANS or len(self.tally.judged)
        self._paid = WeightPrices.of(self.problem, 1.0 if mean else 1.0 / float(self.problem.weights.sum()))

    def advance(self, budget: Budget) -> bool:
        """Take a few steps; where a descent ends, or the time, offer it with its constraints mended."""
        if self._now is None:
            self._now = self._begin()
        now, began = self._now, budget.control.elapsed
        while now.done < now.steps and not (budget.over and not self.reproducible):
            self._step(now)
            if now.done == TIMED and not self.reproducible:
                each, left = (budget.control.elapsed - began) / now.done, budget.until - budget.control.elapsed
                now.steps = int(np.clip(PART * left / max(each, 1e-9), FEWEST, now.steps))
            if self._runs and now.done % AT_A_TIME == 0:
                break
        if now.done >= now.steps or budget.over:
            self._offer(now.change, budget)
            self._runs, self._now = self._runs + 1, None
        return True

    def _begin(self) -> _Descent:
        change = self.incumbents.whole_change
        if self._runs:
            kick = STEPPED_KICK if self._stepped else KICK
            change = np.clip(change + kick * self.problem.pace * self.rng.normal(size=change.shape), -1.0, 1.0)
        nothing = np.zeros_like(change)
        spread = self._spread or self._spread_at(change) or 1.0
        reached = float(np.linalg.norm(self.problem.stride, axis=1).max()) / self.block.unit
        return _Descent(
            change=np.where(self.problem.radius > 0, change, 0.0),
            steps=(STEPS if self._runs else FIRST) * (1 if self._batch is None else BATCHES),
            spread=spread,
            pace=self.problem.pace * min(1.0, WIDE * spread / max(reached, 1e-300)),
            narrowest=(STEPPED_NARROWEST if self._stepped else NARROWEST)[self._runs % 2],
            multipliers=np.zeros(self._counts.asked),
            lack=np.zeros(self._counts.asked),
            moments=Moments(nothing, nothing),
        )

    def _spread_at(self, change: Array) -> float:
        outputs = self.block.rows(change.astype(np.float32)[None], slice(None, None, -(-len(self.block.inputs) // ALL)))
        # One logit is told from 0, scores of classes from one another.
        return float(outputs.std() if self.problem.snapshot.task == "classification" else np.sqrt((outputs**2).mean()))

    def _step(self, now: _Descent) -> None:
        part = now.done / now.steps
        width = now.spread * WIDEST * (now.narrowest / WIDEST) ** part
        place = self._settle(now, part)
        counts, inputs, scores = self._drawn()
        outputs = scores + inputs @ (self.block.reach * place.astype(np.float32)).T
        _, slope, lack = counts(outputs, width, now.multipliers, PRICE)
        now.lack += (lack - now.lack) * (1.0 if self._batch is None else LACK_FADES)
        # [h, n] @ [n, c], by the change through the reach [h, c].
        gradient = (self.block.reach * (slope.T @ inputs)).astype(np.float64)
        gradient += self._paid(place, ROUNDED)[1]
        mean, size = now.moments.take(gradient)
        if now.done % RAISED_EVERY == 0:
            now.multipliers = counts.raised(now.multipliers, now.lack, part)
        rate = (STEPPED_RATE if self._stepped else RATE) * 0.5 * (1 + np.cos(np.pi * part))
        moved = now.change - rate * now.pace * mean / size
        now.change = np.where(self.problem.radius > 0, np.clip(moved, -1.0, 1.0), 0.0)

    def _batch_size(self) -> int | None:
        """Samples for a step, with some of each set whose share is asked for; None for all of them."""
        samples, tally = len(self.block.inputs), self.tally
        sets = np.concatenate([tally.floors, *(members for members, _ in tally.gaps), tally.judged, tally.precise])
        shares = (sets @ tally.total) / tally.total.sum()
        size = max(BATCH, int(np.ceil(SOME / max(float(shares.min(initial=1.0)), 1e-9))))
        return size if samples > ALL and size <= samples // LEAST_BATCHES else None

    def _drawn(self) -> tuple[AnnealedCounts | AnnealedEach, Singles, Singles]:
        """What a step looks at: all samples, or the next batch of them; their inputs [n, c] and scores [n, h]."""
        if self._batch is None:
            return self._counts, self.block.inputs, self.block.scores
        if self._order.size < self._batch:
            self._order = self.rng.permutation(len(self.block.inputs))
        rows, self._order = self._order[: self._batch], self._order[self._batch :]
        return self._counts.part(rows), self.block.inputs[rows], self.block.scores[rows]

    def _settle(self, now: _Descent, part: float) -> Array:
        """Where slopes are taken: on grids and levels, from which the change itself is not moved, and with zeros."""
        if self._few is None:
            return now.change
        now.change = self._few.thinned(now.change, max(0.0, 1.0 - part / THINNED) ** 3)
        place = self._few.settled(now.change)
        if part >= OFFERED and now.done % OFFERED_EVERY == 0:
            # Single steps of values jump up and down: the last one is not the best.
            self.incumbents.offer_whole(place)
        return place

    def _offer(self, change: Array, budget: Budget) -> None:
        self.incumbents.offer_whole(change)
        if self.problem.constraints:
            offer_mended(change, self.walk, self.incumbents, budget)
