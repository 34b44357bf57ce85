"""Many descents at once inside the box, from starts where no unit is dead: the way out of a dead ReLU.

Gradient descent on the network itself cannot leave such a point, because its gradient there is zero. Starts that are
spread over the box can, and numpy runs dozens of them in the time of one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array
from solver_service.milp.network.programs.losses import slopes

FIRST_RATE, LAST_RATE = 0.08, 0.002
MOMENT, SQUARE = 0.9, 0.99
LEAK = 0.3
"""How much every second descent, for the first half of its rounds, takes flat pieces to rise."""
ELEMENTS = 4_000_000
"""A batch holds about so many pre-activations at a time."""


@dataclass(frozen=True, eq=False)
class Found:
    """Steps [m, size] and their objectives [m], best first."""

    steps: Array
    values: Array


def batch_size(network: Network, most: int = 64) -> int:
    """How many starts fit into one batch."""
    width = network.radius.shape[0] + sum(len(layer.weight) for layer in network.tail)
    return int(np.clip(ELEMENTS // max(1, width * len(network.inputs)), 1, most))


def starts(network: Network, best: Array, count: int, rng: np.random.Generator) -> Array:
    """Steps [count, size] to begin from: points around the best so far, and points all over the box.

    In the latter each unit's kink lies among the samples, so that hardly any unit begins dead or always on.
    """
    spread = rng.uniform(-1, 1, size=(count, network.size))
    spread = with_kinks_among_samples(network, spread, rng)
    reach = rng.choice([0.1, 0.3, 1.0, 1.0], size=(count, 1))
    return np.clip(np.where(reach < 1.0, best + reach * spread, spread), -1.0, 1.0)


def with_kinks_among_samples(network: Network, steps: Array, rng: np.random.Generator) -> Array:
    """The steps [m, size] with biases moved, as far as the box allows, so that each unit is zero at some sample."""
    count, units = len(steps), len(network.radius)
    before = network.trace(steps).before[0]
    sample = rng.integers(before.shape[1], size=(count, units))
    shift = -before[np.arange(count)[:, None], sample, np.arange(units)]
    moved, bias = steps.copy(), network.radius[:, -1]
    change = moved[:, : network.block_size].reshape(count, *network.radius.shape)
    change[:, :, -1] += np.divide(shift, bias, out=np.zeros_like(shift), where=bias > 0)
    return np.clip(moved, -1.0, 1.0)


def descend(network: Network, goal: Objective, begin: Array, *, rounds: int, should_stop: Callable[[], bool]) -> Found:
    """Follow Adam (Kingma & Ba, 2015) on the objective's stand-in from several starts [m, size], clipped to the box."""
    steps, best = begin.copy(), begin.copy()
    values = np.full(len(begin), np.inf)
    leak = np.where(np.arange(len(begin)) % 2 == 1, LEAK, 0.0)[:, None, None]
    moment, square = np.zeros_like(steps), np.zeros_like(steps)
    pace = _pace(network)
    for number in range(1, rounds + 1):
        trace = network.trace(steps)
        if number % 10 == 1 or number == rounds:
            values, best = _keep(network, goal, trace.outputs, steps, values, best)
        if should_stop():
            break
        gradient = trace.pull_back(slopes(goal, network.snapshot, trace.outputs), leak if 2 * number <= rounds else 0.0)
        moment = MOMENT * moment + (1 - MOMENT) * gradient
        square = SQUARE * square + (1 - SQUARE) * gradient**2
        scaled = (moment / (1 - MOMENT**number)) / (np.sqrt(square / (1 - SQUARE**number)) + 1e-12)
        rate = FIRST_RATE * (LAST_RATE / FIRST_RATE) ** (number / rounds)
        steps = np.clip(steps - rate * pace * scaled, -1.0, 1.0)
    order = np.argsort(values, kind="stable")
    return Found(best[order], values[order])


def _pace(network: Network) -> Array:
    """How fast each entry [size] of a step may move: one in a box much wider than most, only as fast as they."""
    widths = network.radius.ravel()
    if network.tail_moves:
        widths = np.concatenate([box.ravel() for box in network.boxes])
    usual = float(np.median(widths[widths > 0])) if (widths > 0).any() else 1.0
    return np.minimum(1.0, np.divide(usual, widths, out=np.ones_like(widths), where=widths > 0))


def _keep(
    network: Network, goal: Objective, outputs: Array, steps: Array, values: Array, best: Array
) -> tuple[Array, Array]:
    """The better of what each start had and has now, by the objective itself."""
    now = np.array([goal.of_outputs(network.snapshot, single) for single in outputs])
    better = now < values
    return np.where(better, now, values), np.where(better[:, None], steps, best)
