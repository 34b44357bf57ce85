"""Unit replacement: the least useful unit goes, the hyperplane that explains most of what is left to explain comes.

A descent moves kinks a little at a time and cannot carry a unit across the data; this puts it down where it pays. It
is matching pursuit (Mallat & Zhang, 1993) on one unit of a network that is otherwise kept.
"""

from dataclasses import dataclass

import numpy as np

from shared.objectives import sample_weights
from shared.snapshot import regression_targets
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.network.joint.evaluator import Evaluator, Real

CANDIDATES = 400
LARGEST = 400_000
"""So many candidate values, over all samples looked at, are scored at a time."""
BEST = 5
"""One of so many best candidates comes in: always the best would come to the same point again and again."""
ALONG = 24
"""So many candidates point where, on some of the samples, most is missing."""
RIDGE = 1e-8
LENGTHS = (1.0, 0.3, 3.0, 0.1, 10.0)


@dataclass(frozen=True, eq=False)
class _Place:
    """A unit to replace: its layer, its number, and samples [m] to judge by."""

    layer: int
    unit: int
    rows: Index


def replaceable(evaluate: Evaluator) -> list[int]:
    """Layers whose units can be replaced: those that move, before one that moves too."""
    moves = evaluate.scaling.moves
    return [layer for layer in range(len(moves) - 1) if moves[layer] and moves[layer + 1]]


def replace_unit(evaluate: Evaluator, variables: Array, rng: np.random.Generator) -> Array:
    """Variables with one unit replaced, clipped into the box; nothing is descended yet."""
    weights = [weight.copy() for weight in evaluate.scaling.weights(variables)]
    evaluate.outputs(variables)
    place = _choose(evaluate, weights, rng)
    hidden = np.array(evaluate.hidden(place.layer)[:, place.rows], dtype=np.float64)
    missing = _missing(evaluate, weights, place)
    others = np.delete(hidden, place.unit, axis=0)
    basis = np.linalg.qr(others.T)[0]
    missing = missing - (missing @ basis) @ basis.T
    planes = _hyperplanes(evaluate, place, missing, rng)
    values = np.asarray(evaluate.activation(place.layer)(planes.astype(np.float32) @ _inputs(evaluate, place)))
    chosen = _pick(values, basis.astype(np.float32), missing.astype(np.float32), rng)
    rest = values[chosen].astype(np.float64)
    rest -= basis @ (rest @ basis)
    weights[place.layer][place.unit] = planes[chosen] * evaluate.scaling.in_units(place.layer)[place.unit]
    out = missing @ rest / max(float(rest @ rest), 1e-300)
    return _fitted(evaluate, weights, place, out)


def _pick(values: Real, basis: Real, missing: Real, rng: np.random.Generator) -> int:
    """One of the candidates [c, m] that explain most of what is missing [width, m] beyond the others' basis [m, h]."""
    size = np.einsum("cm,cm->c", values, values)
    rest = size - np.square(values @ basis).sum(axis=1)
    explained = np.square(values @ missing.T).sum(axis=1) / (np.maximum(rest, 0.0) + 1e-4 * size + 1e-30)
    best = np.argsort(-explained, kind="stable")[:BEST]
    return int(best[rng.integers(len(best))])


def _choose(evaluate: Evaluator, weights: list[Array], rng: np.random.Generator) -> _Place:
    """The less a unit adds to the next layer, the likelier it goes; now and then any does."""
    layers = replaceable(evaluate)
    layer = layers[int(rng.integers(len(layers)))]
    values = evaluate.hidden(layer)[:-1]
    use = values.std(axis=1) * np.linalg.norm(weights[layer + 1][:, :-1], axis=0)
    odds = 1.0 / (use / (float(use.max()) or 1.0) + 1e-9)
    anyone = rng.random() >= 0.7
    unit = int(rng.integers(len(use)) if anyone else rng.choice(len(use), p=odds / odds.sum()))
    most = max(200, LARGEST // CANDIDATES)
    rows = np.arange(evaluate.samples)
    if evaluate.samples > most:
        rows = np.sort(rng.choice(evaluate.samples, size=most, replace=False))
    return _Place(layer, unit, rows)


def _missing(evaluate: Evaluator, weights: list[Array], place: _Place) -> Array:
    """What the next layer's pre-activations [width, m] lack once the unit is out: minus the stand-in's slope there.

    For squares behind the last layer that is the residual itself.
    """
    without = [weight.copy() for weight in weights]
    without[place.layer + 1][:, place.unit] = 0.0
    evaluate.outputs(evaluate.scaling.from_weights(without))
    slope = evaluate.slopes_before(place.layer + 1)[:, place.rows]
    return np.asarray(slope, dtype=np.float64) * (-0.5 * evaluate.samples * len(evaluate.hidden(-1)[:-1]))


def _inputs(evaluate: Evaluator, place: _Place) -> Real:
    """What enters the unit [width + 1, m], in units of its weights."""
    scale = evaluate.scaling.in_units(place.layer)[place.unit]
    return np.asarray(evaluate.entering(place.layer)[:, place.rows] * scale[:, None], dtype=np.float32)


def _hyperplanes(evaluate: Evaluator, place: _Place, missing: Array, rng: np.random.Generator) -> Array:
    """Candidates [c, width + 1] with kinks through samples: random, between two samples, along what is missing."""
    inputs = _inputs(evaluate, place)
    points = inputs[:-1].T
    m, width = points.shape
    count = int(np.clip(LARGEST // m, 40, CANDIDATES))
    first, second = rng.integers(m, size=(2, count))
    directions = np.where(rng.random((count, 1)) < 0.5, rng.normal(size=(count, width)), points[first] - points[second])
    for index in range(ALONG):
        some = rng.integers(m, size=max(8, m // 8))
        pull = rng.normal(size=len(missing)) @ missing[:, some]
        directions[index] = (pull - pull.mean()) @ points[some]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-12
    if evaluate.activation(place.layer).name not in ("relu", "leaky_relu"):
        directions *= 10.0 ** rng.uniform(-0.7, 0.7, size=(count, 1))
    through = points[rng.integers(m, size=count)]
    unit = max(float(np.abs(inputs[-1, 0])), 1e-300)
    return np.column_stack([directions, -(directions * through).sum(axis=1) / unit])


def _fitted(evaluate: Evaluator, weights: list[Array], place: _Place, out: Array) -> Array:
    """The variables with the new unit's outgoing weights: the last layer refitted for squares, else the best length."""
    scaling = evaluate.scaling
    if evaluate.stand_in.squares and place.layer + 2 == len(weights):
        weights[-1] = _refit(evaluate, scaling.from_weights(weights), weights[-1], place)
        return scaling.from_weights(weights)
    found, least = scaling.from_weights(weights), np.inf
    for length in LENGTHS:
        weights[place.layer + 1][:, place.unit] = length * out
        tried = scaling.from_weights(weights)
        value = evaluate.value(tried)
        if value < least:
            found, least = tried, value
    return found


def _refit(evaluate: Evaluator, variables: Array, own: Array, place: _Place) -> Array:
    """The last layer [K, width + 1] by least squares on its hidden values, the box left to the clipping."""
    if evaluate.activation(place.layer + 1).name != "identity":
        return own
    evaluate.outputs(variables)
    hidden = np.asarray(evaluate.hidden(place.layer), dtype=np.float64)
    root = sample_weights(evaluate.network.snapshot)
    wanted = regression_targets(evaluate.network.snapshot).T - evaluate.offset(place.layer + 1)
    gram = (hidden * root) @ hidden.T
    gram.flat[:: len(gram) + 1] += RIDGE * float(gram.trace())
    return np.asarray(np.linalg.solve(gram, (hidden * root) @ wanted.T).T)
