"""Minibatch descents in float32 for networks too large to run whole again and again: something good at any size.

Adam (Kingma & Ba, 2015) on the objective's stand-in, clipped into the box after every step. A batch costs a hundredth
of a run over all samples, and the first dozens of them bring most of what is to be had.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.stand_ins import stand_in

BATCH_ELEMENTS = 6_000_000
"""A batch multiplies about so many coefficients at most."""
LEAST, MOST = 128, 2048
"""Samples in a batch."""
MOMENT, SQUARE = 0.9, 0.99
RATES, ROUNDED_RATES = (0.1, 0.03, 0.3), (0.3, 0.1, 1.0)
"""Lengths of the first steps, in units of the usual size of a weight; each descent takes the next."""
LAST = 0.01
"""The last steps of a descent are so much shorter; their lengths fall as a cosine, so that most are long."""
STEPS, FEWEST, MOST_STEPS = 600, 60, 20_000
"""Of a descent; by the clock as many as fit into a part of what is left, within a range."""
PART, MOST_PART, PASSES = 0.5, 0.9, 200
"""That part, and what it is for counts where it has not even so many passes over the samples; on cross-entropy these
gain more than all that follows. Other objectives leave time for L-BFGS, which goes on where steps end."""
TIMED = 5
"""After so many it is known what one takes."""
UNCAPPED = 0.4
"""Which part of the first descent gives up on no sample; all of it where cross-entropy stands in for a count."""
FREE = 0.2
"""Which part of a descent knows nothing of zeros, grids and levels."""
OFFERS, PARTS = (30, 100, 300), 10
"""Steps after which a descent shows what it has come to; later it does so after each of so many parts."""


class Minibatches:
    """Descents over batches of a network's samples, drawn once and kept."""

    def __init__(
        self,
        network: Network,
        goal: Objective,
        scaling: Scaling,
        rng: np.random.Generator,
        rounded: Callable[[Array], Array] | None = None,
    ) -> None:
        self._network, self._goal, self._scaling, self._rng = network, goal, scaling, rng
        self._rounded = rounded
        per_sample = max(1, network.elements // network.snapshot.samples)
        size = int(np.clip(BATCH_ELEMENTS // per_sample, LEAST, MOST))
        order = rng.permutation(network.snapshot.samples)
        self._rows: list[Index] = np.array_split(order, max(1, len(order) // size))
        self._batches: dict[tuple[int, bool], tuple[int, Evaluator]] = {}
        self._importance: Array | None = None
        self._version = 0
        self._descents = 0
        # What no count sees, cross-entropy does.
        counted = goal.name in ("zero_one", "ramp") and network.snapshot.task != "regression"
        self._kinder = replace(goal, name="log_loss") if counted else goal
        self._counted, self._uncapped = counted, 1.0 if counted else UNCAPPED

    def descend(self, begin: Array, show: Callable[[Array], None], budget: Budget) -> Array:
        """One descent from variables [size]: where it ended; `show` is given what it comes to now and then.

        The first descent gives up on no sample at first, whatever the objective.
        """
        rates = RATES if self._rounded is None else ROUNDED_RATES
        rate = rates[self._descents % len(rates)] * self._usual()
        variables, moment, square = begin.copy(), np.zeros_like(begin), np.zeros_like(begin)
        began, steps, number, shown = budget.control.elapsed, STEPS, 0, 0
        while number < steps:
            if budget.over:
                break
            number += 1
            batch = self._batch(number, capped=self._descents > 0 or number > self._uncapped * steps)
            gradient = batch(self._place(variables, number / steps))[1]
            moment = MOMENT * moment + (1 - MOMENT) * gradient
            square = SQUARE * square + (1 - SQUARE) * gradient**2
            scaled = (moment / (1 - MOMENT**number)) / (np.sqrt(square / (1 - SQUARE**number)) + 1e-30)
            pace = LAST + (1 - LAST) * 0.5 * (1 + np.cos(np.pi * number / steps))
            variables = np.clip(variables - rate * pace * scaled, self._scaling.lower, self._scaling.upper)
            if number in OFFERS or (number > OFFERS[-1] and number % max(1, steps // PARTS) == 0) or number == steps:
                show(variables)
                shown = number
            if number == TIMED and budget.timed:
                each, left = (budget.control.elapsed - began) / number, budget.until - budget.control.elapsed
                steps = self._fitting(left / max(each, 1e-9))
        if number > shown:
            show(variables)
        self._descents += 1
        return np.asarray(variables)

    def _fitting(self, room: float) -> int:
        """How many steps a descent takes where there is time for so many."""
        short = PART * room < PASSES * len(self._rows)
        part = MOST_PART if short and self._counted else PART
        return int(np.clip(part * room, FEWEST, MOST_STEPS if self._rounded is None else STEPS))

    def _place(self, variables: Array, part: float) -> Array:
        """Where slopes are taken: at weights that keep what is asked of single ones, once a descent is on its way."""
        return variables if self._rounded is None or part < FREE else self._rounded(variables)

    def _usual(self) -> Array:
        """The usual size of each weight [size]: 1 / sqrt(inputs of its layer), or what the box lets it be."""
        sizes = [
            np.full(own.shape, 1 / np.sqrt(max(1, own.shape[1] - 1)))
            for own, moves in zip(self._scaling.own, self._scaling.moves, strict=True)
            if moves
        ]
        usual: Array = np.concatenate([size.ravel() for size in sizes])[self._scaling.free]
        return np.asarray(np.minimum(usual, (self._scaling.upper - self._scaling.lower) / 2))

    def weigh(self, importance: Array) -> None:
        """Let samples [N] count so many times their own weights from now on."""
        self._importance = importance
        self._version += 1

    def _batch(self, number: int, *, capped: bool) -> Evaluator:
        """The evaluator of the next batch, made when it is first asked for, and anew where samples weigh otherwise."""
        index = number % len(self._rows)
        key, rows = (index, capped), self._rows[index]
        version, found = self._batches.get(key) or self._batches.get((index, not capped)) or (-1, None)
        if key not in self._batches or version != self._version:
            goal = self._goal if capped else self._kinder
            function = stand_in(goal, self._network.snapshot, rows, capped=capped, importance=self._importance)
            found = (
                Evaluator(self._network, function, rows, self._scaling.dtype, self._scaling)
                if found is None
                else found.following(function)
            )
            self._batches[key] = self._version, found
        assert found is not None, "it was there, or was made"
        return found
