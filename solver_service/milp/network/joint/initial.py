"""Where descents begin: at the usual scales of initial weights, as far as the box lets them."""

import numpy as np

from solver_service.milp.core.problem import Array
from solver_service.milp.network.joint.scaling import Scaling

SCALES = (1.0, 2.0)


def fresh(scaling: Scaling, rng: np.random.Generator) -> Array:
    """Variables drawn as a new network's are: uniform in +-1 / sqrt(inputs of the layer), or twice that.

    Where the box does not hold such a point, it is drawn from the whole width of the box instead.
    """
    scale = float(rng.choice(SCALES))
    weights = []
    for layer, own in enumerate(scaling.own):
        half = scale / np.sqrt(max(1, own.shape[1] - 1))
        drawn = rng.uniform(-half, half, size=own.shape)
        weights.append(drawn * scaling.in_units(layer) if scaling.moves[layer] else drawn)
    free = scaling.raw(weights)
    anywhere = rng.uniform(scaling.lower, scaling.upper)
    inside = (free >= scaling.lower) & (free <= scaling.upper)
    return np.where(inside, free, anywhere)


def kicked(scaling: Scaling, variables: Array, rng: np.random.Generator) -> Array:
    """Variables of which some are moved at random, by little or by much, inside the box."""
    lower, upper = scaling.lower, scaling.upper
    chosen = rng.random(variables.size) < rng.choice((0.1, 0.3, 1.0))
    reach = np.minimum(upper - lower, 2.0 * np.maximum(1.0, np.abs(variables)))
    moved = variables + rng.choice((0.05, 0.15, 0.5)) * reach * rng.uniform(-1, 1, variables.size)
    return np.asarray(np.clip(np.where(chosen, moved, variables), lower, upper))


def reaching(scaling: Scaling, variables: Array, rng: np.random.Generator) -> Array:
    """Variables with one unit of the block put into the corner of its box that a sample reaches farthest from.

    Where a unit is off for all samples, descents have no slope to follow. If any place of the box lets a sample switch
    it on, the corner does where that sample's pre-activation is largest.
    """
    weights, inputs = scaling.weights(variables), scaling.network.snapshot.inputs
    sample = np.append(inputs[rng.integers(len(inputs))].astype(np.float64), 1.0)
    unit = rng.integers(len(weights[0]))
    ends = np.copysign(np.inf, sample * rng.choice((-1.0, 1.0)))
    weights[0] = weights[0].copy()
    weights[0][unit] = np.where(sample != 0, ends, weights[0][unit])
    return scaling.from_weights(weights)
