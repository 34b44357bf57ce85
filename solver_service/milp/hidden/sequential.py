"""Sequential linear programming over block and tail: exact steps inside one activation pattern after another."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.optimize import lsq_linear

from shared.objectives import EPSILON, Objective, sample_weights
from shared.snapshot import regression_targets
from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.hidden.losses import kept
from solver_service.milp.hidden.network import Network
from solver_service.milp.problem import Array, Index

LARGEST_JACOBIAN = 3_000_000
FIRST_TRUST, LEAST_TRUST, MOST_TRUST = 0.2, 1e-7, 1.0
ROUNDS = 60
CLEARANCE = 1e-3
"""How far beyond its threshold a kept sample is wanted, so that rounding to float32 does not lose it."""


def fits(network: Network) -> bool:
    """Whether the linearised problem is small enough to be worth solving."""
    return len(network.inputs) * network.snapshot.outputs * network.size <= LARGEST_JACOBIAN


def refine(network: Network, goal: Objective, begin: Array, should_stop: Callable[[], bool]) -> tuple[Array, float]:
    """Improve a step [size]: linearise, solve within a trust region, widen it on success: (step, objective)."""
    step, trust = begin.copy(), FIRST_TRUST
    value = goal.of_outputs(network.snapshot, network.outputs(step[None])[0])
    for _ in range(ROUNDS):
        if should_stop() or trust < LEAST_TRUST or value == 0.0:
            break
        move = _best_move(network, goal, step, trust, should_stop)
        tried = np.clip(step + move, -1.0, 1.0)
        reached = goal.of_outputs(network.snapshot, network.outputs(tried[None])[0])
        if reached < value * (1 - 1e-9):
            small = reached > 0.999 * value
            step, value = tried, reached
            trust = min(MOST_TRUST, trust if small else 2 * trust)
        else:
            trust *= 0.3
    return step, value


def secure(network: Network, goal: Objective, step: Array, should_stop: Callable[[], bool]) -> Array:
    """Move a step so that samples right on the line get clear of it, as far as its activation pattern allows."""
    move = _best_move(network, goal, step, FIRST_TRUST, should_stop)
    return np.clip(step + move, -1.0, 1.0)


def _best_move(network: Network, goal: Objective, step: Array, trust: float, should_stop: Callable[[], bool]) -> Array:
    """The move [size] that is best for the outputs' linear model, within the box and the trust region."""
    trace = network.trace(step[None])
    outputs, jacobian = trace.outputs[0], trace.jacobian()
    lower, upper = np.maximum(-1.0 - step, -trust), np.minimum(1.0 - step, trust)
    if goal.name == "mse":
        return _least_squares(network, outputs, jacobian, lower, upper)
    fought = np.flatnonzero(kept(goal, network.snapshot, outputs) & (sample_weights(network.snapshot) > 0))
    if fought.size == 0:
        return np.zeros(network.size)
    if network.snapshot.task == "classification":
        rows, need, slack = _margin_rows(network, goal, fought, outputs, jacobian)
    else:
        rows, need, slack = _error_rows(network, goal, fought, outputs, jacobian)
    cost, slack_of = slack
    entries = (np.ones(len(slack_of)), (np.arange(len(slack_of)), slack_of))
    columns = sp.csr_array(entries, shape=(len(rows), len(cost)))
    program = LinearProgram(
        np.concatenate([np.zeros(network.size), cost]),
        np.concatenate([lower, np.zeros(len(cost))]),
        np.concatenate([upper, np.full(len(cost), np.inf)]),
        should_stop=should_stop,
    )
    program.add_rows(sp.csr_array(sp.hstack([sp.csr_array(rows), columns], format="csr")), need)
    found = program.run()
    return found.columns[: network.size] if found.status is LpStatus.OPTIMAL else np.zeros(network.size)


def _margin_rows(
    network: Network, goal: Objective, fought: Index, outputs: Array, jacobian: Array
) -> tuple[Array, Array, tuple[Array, Index]]:
    """Rows `margin . move + need xi >= need - t` for each kept sample and rival; one slack per sample."""
    snap = network.snapshot
    targets = snap.targets[fought].astype(np.int64)
    sample, rival = np.nonzero(np.arange(snap.outputs) != targets[:, None])
    own = targets[sample]
    need = EPSILON + CLEARANCE if goal.name == "zero_one" else goal.margin
    rows = (jacobian[fought[sample], own] - jacobian[fought[sample], rival]) / need
    margin = outputs[fought[sample], own] - outputs[fought[sample], rival]
    return rows, 1.0 - margin / need, (sample_weights(snap)[fought], sample)


def _error_rows(
    network: Network, goal: Objective, fought: Index, outputs: Array, jacobian: Array
) -> tuple[Array, Array, tuple[Array, Index]]:
    """Rows `e >= +-error - tolerance`; a slack per value (mae), per kept sample (outliers) or one for all."""
    snap, weights = network.snapshot, sample_weights(network.snapshot)
    k = outputs.shape[1]
    error = (outputs - regression_targets(snap))[fought].ravel()
    rows = jacobian[fought].reshape(len(error), -1)
    tolerance = 0.0
    slack: Index
    match goal.name:
        case "max_error":
            cost, slack = np.ones(1), np.zeros(len(error), dtype=np.int64)
        case "outliers":
            tolerance = max(0.0, (goal.tolerance or 0.0) - CLEARANCE * (goal.tolerance or 0.0))
            cost, slack = weights[fought], np.repeat(np.arange(len(fought)), k)
        case _:
            cost, slack = np.repeat(weights[fought], k) / (k * weights.sum()), np.arange(len(error))
    need = np.concatenate([error, -error]) - tolerance
    return np.concatenate([-rows, rows]), need, (cost, np.concatenate([slack, slack]))


def _least_squares(network: Network, outputs: Array, jacobian: Array, lower: Array, upper: Array) -> Array:
    """The Gauss-Newton move within bounds."""
    root = np.sqrt(sample_weights(network.snapshot))[:, None]
    error = (root * (outputs - regression_targets(network.snapshot))).ravel()
    rows = (root[:, :, None] * jacobian).reshape(len(error), -1)
    free = upper > lower
    move = np.zeros(network.size)
    if free.any():
        move[free] = lsq_linear(rows[:, free], -error, (lower[free], upper[free]), max_iter=100).x
    return move
