"""Rivals for whole small networks: Levenberg-Marquardt in the box from many starts, and units that are replaced."""

from collections.abc import Callable

import numpy as np

from benchmarks.rivals_case import Array, Case, kinks
from benchmarks.rivals_smooth import local, random_start
from shared.snapshot import regression_targets

CANDIDATES = 400
"""Hyperplanes that are tried in a unit's place."""
FRESH = 40
"""Replacements without a gain before another random start."""


def fits_least_squares(case: Case) -> bool:
    """True for mse of a network whose Jacobian is small enough to be squared many times a second."""
    return case.spec.objective == "mse" and case.inputs.shape[0] * len(case.start) ** 2 < 1e9


def gauss(case: Case, rng: np.random.Generator) -> None:
    """Levenberg-Marquardt from the snapshot and from random starts."""
    runs = 0
    while case.clock.used < 1:
        marquardt(case, case.start if runs == 0 else random_start(case, rng))
        runs += 1


def replacement(case: Case, rng: np.random.Generator) -> None:
    """Replace units, and descend by L-BFGS-B after each."""
    _replace(case, rng, lambda case, start: local(case, start, 0.01, 150))


def replacement_gauss(case: Case, rng: np.random.Generator) -> None:
    """Replace units, and descend by Levenberg-Marquardt after each."""
    _replace(case, rng, marquardt)


def _replace(case: Case, rng: np.random.Generator, descend: Callable[[Case, Array], tuple[Array, float]]) -> None:
    """Take the least useful unit out, put a good hyperplane for the residual in, descend; now and then begin afresh."""
    tries = [descend(case, start) for start in (case.start, random_start(case, rng), random_start(case, rng))]
    here, value = min(tries, key=lambda pair: pair[1])
    idle = 0
    while case.clock.used < 1:
        changed = replaced(case, here, rng)
        if rng.random() < 0.3:
            changed = replaced(case, changed, rng)
        found, cost = descend(case, changed)
        idle += 1
        if cost < value * (1 - 1e-6):
            here, value, idle = found, cost, 0
        elif idle > FRESH:
            (here, value), idle = descend(case, random_start(case, rng)), 0


def replaced(case: Case, vector: Array, rng: np.random.Generator) -> Array:
    """One unit of the block exchanged for a hyperplane through the data; the last layer by ridge regression."""
    (weight, bias), (outer, _) = case.layers(case.clip(vector))  # views of a copy, so they may be written to
    activation, inputs = case.parts[0].activation, case.inputs
    assert bias is not None, "can_replace wants biases"
    hidden = activation(inputs @ weight.T + bias)
    use = hidden.std(axis=0) * np.linalg.norm(outer, axis=0)
    odds = 1 / (use + 1e-9 * use.max() + 1e-300)
    units = len(use)
    out = int(rng.choice(units, p=odds / odds.sum()) if rng.random() < 0.7 else rng.integers(units))
    # what the other units and the bias cannot explain: project on the complement of their span
    basis, _ = np.linalg.qr(np.column_stack([np.delete(hidden, out, axis=1), np.ones(len(hidden))]))
    targets = regression_targets(case.snapshot)
    residual = targets - basis @ (basis.T @ targets)
    planes, shifts = _hyperplanes(inputs, rng)
    explained = activation(inputs @ planes.T + shifts)
    explained -= basis @ (basis.T @ explained)
    gain = ((explained.T @ residual) ** 2).sum(axis=1) / ((explained**2).sum(axis=0) + 1e-9)
    chosen = int(rng.choice(np.argsort(-gain)[:5]))
    weight[out], bias[out] = planes[chosen], shifts[chosen]
    hidden = np.column_stack([activation(inputs @ weight.T + bias), np.ones(len(inputs))])
    ridge = 1e-8 * len(inputs) * np.eye(units + 1)
    solved = np.linalg.lstsq(hidden.T @ hidden + ridge, hidden.T @ targets, rcond=None)[0]
    return np.concatenate([weight.ravel(), bias, solved[:-1].T.ravel(), solved[-1]])


def can_replace(case: Case) -> bool:
    """True for a block and one linear layer behind it that both move and have biases, in a regression."""
    moving = [isinstance(place, slice) for part in case.parts for place in (part.weight, part.bias)]
    linear = case.parts[-1].activation.name == "identity" and case.snapshot.offset is None
    return case.snapshot.task == "regression" and len(case.parts) == 2 and all(moving) and linear


def marquardt(case: Case, start: Array, iterations: int = 150) -> tuple[Array, float]:
    """Levenberg-Marquardt on the mean squared error, in the box: variables that a step pushes outwards are held.

    Solves (J'J + damping diag(J'J)) step = -J'r for the residuals r [N K], times the root of their weights.
    """
    vector, damping, small = case.clip(start), 1e-2, 0
    residual, jacobian = _linearised(case, vector)
    value = float(residual @ residual)
    for _ in range(iterations):
        gradient, normal = jacobian.T @ residual, jacobian.T @ jacobian
        outwards = ((vector <= case.low) & (gradient > 0)) | ((vector >= case.high) & (gradient < 0))
        free = np.flatnonzero(~outwards)
        diagonal = np.diag(normal)[free] + 1e-10 * max(1e-300, float(np.diag(normal).max()))
        better = False
        for _ in range(8):
            if not case.clock.step():
                case.offer(vector)
                return vector, value
            step = np.zeros_like(vector)
            try:
                step[free] = np.linalg.solve(normal[np.ix_(free, free)] + np.diag(damping * diagonal), -gradient[free])
            except np.linalg.LinAlgError:
                damping *= 4
                continue
            trial = case.clip(vector + step)
            left = _residual(case, case.scores(trial))
            cost = float(left @ left)
            if cost < value:
                better = True
                break
            damping *= 4
        if not better:
            break
        small = small + 1 if cost > value * (1 - 1e-5) else 0
        vector, value, damping = trial, cost, max(1e-12, damping / 3)
        if small >= 5:
            break
        residual, jacobian = _linearised(case, vector)
    case.offer(vector)
    return vector, value


def _residual(case: Case, scores: Array) -> Array:
    """Weighted residuals [N K], whose sum of squares is the objective mse."""
    targets = regression_targets(case.snapshot)
    shares = case.weights / (case.weights.sum() * targets.shape[1])
    return np.asarray(((scores - targets) * np.sqrt(shares)[:, None]).ravel())


def _linearised(case: Case, vector: Array) -> tuple[Array, Array]:
    """Residuals [N K] and their Jacobian [N K, P]."""
    trace, layers = case.forward(vector), case.layers(vector)
    samples, outputs = trace[-1].shape
    shares = np.sqrt(case.weights / (case.weights.sum() * outputs))
    jacobian = np.zeros((samples, outputs, len(vector)))
    # slope [N, K, units]: how each output answers to a layer's values before its activation
    slope = np.broadcast_to(np.eye(outputs), (samples, outputs, outputs)) * shares[:, None, None]
    for index in reversed(range(len(layers))):
        part, before = case.parts[index], trace[2 * index]
        kink = kinks(part.activation, trace[2 * index + 1])
        slope = slope if isinstance(kink, float) else slope * kink[:, None, :]
        if isinstance(part.weight, slice):
            jacobian[:, :, part.weight] = (slope[:, :, :, None] * before[:, None, None, :]).reshape(
                samples, outputs, -1
            )
        if isinstance(part.bias, slice):
            jacobian[:, :, part.bias] = slope
        if index:
            slope = slope @ layers[index][0]
    return _residual(case, trace[-1]), jacobian.reshape(samples * outputs, -1)


def _hyperplanes(inputs: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Unit normals [C, d] at random or along differences of samples, shifted [C] so that each plane meets a sample."""
    samples, width = inputs.shape
    first, second, on = rng.integers(samples, size=(3, CANDIDATES))
    drawn = rng.normal(size=(CANDIDATES, width))
    planes = np.where(rng.random((CANDIDATES, 1)) < 0.5, drawn, inputs[first] - inputs[second])
    planes /= np.linalg.norm(planes, axis=1, keepdims=True) + 1e-12
    return planes, -(planes * inputs[on]).sum(axis=1)
