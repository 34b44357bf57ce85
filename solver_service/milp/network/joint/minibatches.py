"""Minibatch descents in float32 for networks too large to run whole again and again: something good at any size.

Adam (Kingma & Ba, 2015) on the objective's stand-in, clipped into the box after every step. A batch costs a hundredth
of a run over all samples, and the first dozens of them bring most of what is to be had.
"""

from collections.abc import Callable

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.stand_ins import stand_in

BATCH_ELEMENTS = 40_000_000
"""A batch multiplies about so many coefficients at most."""
LEAST, MOST = 128, 2048
"""Samples in a batch."""
MOMENT, SQUARE = 0.9, 0.99
RATES = (0.1, 0.03, 0.3)
"""Lengths of the first steps, in units of the usual size of a weight; each descent takes the next."""
LAST = 0.03
"""The last steps of a descent are so much shorter."""
OFFERS = (30, 100, 300, 600)
"""Steps after which a descent shows what it has come to; the last of them ends it."""


class Minibatches:
    """Descents over batches of a network's samples, drawn once and kept."""

    def __init__(self, network: Network, goal: Objective, scaling: Scaling, rng: np.random.Generator) -> None:
        self._network, self._goal, self._scaling, self._rng = network, goal, scaling, rng
        per_sample = max(1, network.elements // network.snapshot.samples)
        size = int(np.clip(BATCH_ELEMENTS // per_sample, LEAST, MOST))
        order = rng.permutation(network.snapshot.samples)
        self._rows: list[Index] = np.array_split(order, max(1, len(order) // size))
        self._batches: dict[tuple[int, bool], Evaluator] = {}
        self._descents = 0

    def descend(self, begin: Array, show: Callable[[Array], None], over: Callable[[], bool]) -> Array:
        """One descent from variables [size]: where it ended; `show` is given what it comes to now and then.

        The first descent gives up on no sample at first, whatever the objective.
        """
        rate = RATES[self._descents % len(RATES)] * self._usual()
        variables, moment, square = begin.copy(), np.zeros_like(begin), np.zeros_like(begin)
        for number in range(1, OFFERS[-1] + 1):
            if over():
                if number > 1:
                    show(variables)
                break
            gradient = self._batch(number, capped=self._descents > 0 or number > OFFERS[1])(variables)[1]
            moment = MOMENT * moment + (1 - MOMENT) * gradient
            square = SQUARE * square + (1 - SQUARE) * gradient**2
            scaled = (moment / (1 - MOMENT**number)) / (np.sqrt(square / (1 - SQUARE**number)) + 1e-30)
            pace = LAST ** (number / OFFERS[-1])
            variables = np.clip(variables - rate * pace * scaled, self._scaling.lower, self._scaling.upper)
            if number in OFFERS:
                show(variables)
        self._descents += 1
        return np.asarray(variables)

    def _usual(self) -> Array:
        """The usual size of each weight [size]: 1 / sqrt(inputs of its layer), or what the box lets it be."""
        sizes = [
            np.full(own.shape, 1 / np.sqrt(max(1, own.shape[1] - 1)))
            for own, moves in zip(self._scaling.own, self._scaling.moves, strict=True)
            if moves
        ]
        usual: Array = np.concatenate([size.ravel() for size in sizes])[self._scaling.free]
        return np.asarray(np.minimum(usual, (self._scaling.upper - self._scaling.lower) / 2))

    def _batch(self, number: int, *, capped: bool) -> Evaluator:
        """The evaluator of the next batch, made when it is first asked for."""
        index = number % len(self._rows)
        rows, key = self._rows[index], (index, capped)
        if key not in self._batches:
            function = stand_in(self._goal, self._network.snapshot, rows, capped=capped)
            other = self._batches.get((index, not capped))
            self._batches[key] = (
                Evaluator(self._network, function, rows, self._scaling.dtype, self._scaling)
                if other is None
                else other.following(function)
            )
        return self._batches[key]
