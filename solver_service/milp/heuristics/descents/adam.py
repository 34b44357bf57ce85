"""Minibatch descents inside the box, several at once: what works at any size in a tenth of a second."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from solver_service.milp.heuristics.descents.single_precision import SinglePrecision, Singles
from solver_service.milp.heuristics.descents.slopes import Slopes

MOMENT, SQUARE = np.float32(0.9), np.float32(0.999)
LEAST_BATCH, MOST_BATCH, BATCHES = 64, 512, 20


@dataclass(frozen=True, eq=False)
class Arms:
    """Descents that run side by side: where each begins [a, h, c], its rate [a] in radii, its width [a].

    `weights` [a, cells] is how much each cell of samples counts for each of them.
    """

    changes: Singles
    rate: Singles
    width: Singles
    weights: Singles

    @property
    def count(self) -> int:
        """a, how many they are."""
        return len(self.changes)


def batch_size(samples: int) -> int:
    """Samples in a batch: about twenty batches an epoch, within what is efficient."""
    return int(np.clip(samples // BATCHES, LEAST_BATCH, MOST_BATCH))


def descend(
    block: SinglePrecision,
    slopes: Slopes,
    sample_weights: Singles,
    cell: np.ndarray,
    arms: Arms,
    *,
    steps: int,
    rng: np.random.Generator,
    should_stop: Callable[[], bool],
    time_left: Callable[[], float] = lambda: 1.0,
) -> Singles:
    """Follow Adam (Kingma & Ba, 2015) from each arm's start, clipped to the box after each step: changes [a, h, c].

    Entries are in units of their radius, so one rate fits all of them; it falls linearly to 0 with the steps, or with
    `time_left` (the share of the time that was planned) where this is less. Samples are drawn without replacement,
    epoch by epoch. A stop ends it at once, where it is.
    """
    changes = arms.changes.copy()
    moment, square = np.zeros_like(changes), np.zeros_like(changes)
    samples, batch = len(block.inputs), batch_size(len(block.inputs))
    order, place = rng.permutation(samples), 0
    for step in range(1, steps + 1):
        left = min(1 - (step - 1) / steps, time_left())
        if should_stop() or left <= 0:
            break
        if place >= samples:
            order, place = rng.permutation(samples), 0
        chosen = order[place : place + batch]
        place += batch
        # [b, a]: the sample's own weight, times what its cell counts for each arm.
        weights = sample_weights[chosen, None] * arms.weights[:, cell[chosen]].T
        # By the outputs [b, a, h], then [a h, b] @ [b, c]: the gradients of all arms in one product.
        slope = slopes(block.rows(changes, chosen), chosen, arms.width, weights)
        gradient = slope.reshape(len(chosen), -1).T @ block.inputs[chosen]
        gradient = gradient.reshape(changes.shape) * block.reach
        moment += (1 - MOMENT) * (gradient - moment)
        square += (1 - SQUARE) * (gradient * gradient - square)
        # Adam's moments begin at 0: both are divided by 1 - beta^step. The rate falls linearly to 0.
        pace = arms.rate * np.float32(left / (1 - float(MOMENT) ** step))
        root = np.sqrt(square * np.float32(1 / (1 - float(SQUARE) ** step)))
        changes -= pace[:, None, None] * block.pace * moment / (root + np.float32(1e-30))
        np.clip(changes, -1.0, 1.0, out=changes)
    return changes
