"""Sequential linear programming over block and tail: exact steps inside one activation pattern after another."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import lsq_linear

from shared.objectives import EPSILON, Objective, sample_weights
from shared.snapshot import regression_targets
from solver_service.milp.backends.highs import LinearProgram, LpStatus
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array, Index
from solver_service.milp.network.programs.losses import kept

LARGEST_JACOBIAN = 3_000_000
FIRST_TRUST, LEAST_TRUST, MOST_TRUST = 0.2, 1e-7, 1.0
ROUNDS = 60
CLEARANCE = 1e-3
"""How far beyond its threshold a kept sample is wanted, so that rounding to float32 does not lose it."""


def fits(network: Network) -> bool:
    """Whether the linearised problem is small enough to be worth solving."""
    return network.snapshot.samples * network.snapshot.outputs * network.size <= LARGEST_JACOBIAN


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
    wanted = _rows(network, goal, fought, outputs, jacobian)
    entries = (np.ones(len(wanted.slack)), (np.arange(len(wanted.slack)), wanted.slack))
    columns = sp.csr_array(entries, shape=(len(wanted.rows), len(wanted.price)))
    program = LinearProgram(
        np.concatenate([wanted.cost, wanted.price]),
        np.concatenate([lower, np.zeros(len(wanted.price))]),
        np.concatenate([upper, np.full(len(wanted.price), np.inf)]),
        should_stop=should_stop,
    )
    program.add_rows(sp.csr_array(sp.hstack([sp.csr_array(wanted.rows), columns], format="csr")), wanted.need)
    found = program.run()
    return found.columns[: network.size] if found.status is LpStatus.OPTIMAL else np.zeros(network.size)


@dataclass(frozen=True, eq=False)
class _Linearised:
    """What a move [size] costs: `cost . move`, and `price` [s] for slacks that `rows . move + slack >= need` ask for.

    `slack` names each row's own.
    """

    rows: Array
    need: Array
    price: Array
    slack: Index
    cost: Array


def _rows(network: Network, goal: Objective, fought: Index, outputs: Array, jacobian: Array) -> _Linearised:
    if network.snapshot.task == "classification":
        return _margin_rows(network, goal, fought, outputs, jacobian)
    if goal.name == "mae":
        return _absolute_rows(network, fought, outputs, jacobian)
    return _error_rows(network, goal, fought, outputs, jacobian)


def _margin_rows(network: Network, goal: Objective, fought: Index, outputs: Array, jacobian: Array) -> _Linearised:
    """Rows `margin . move + need xi >= need - t` for each kept sample and rival; one slack per sample."""
    snap = network.snapshot
    targets = snap.targets[fought].astype(np.int64)
    sample, rival = np.nonzero(np.arange(snap.outputs) != targets[:, None])
    own = targets[sample]
    need = EPSILON + CLEARANCE if goal.name == "zero_one" else goal.margin
    rows = (jacobian[fought[sample], own] - jacobian[fought[sample], rival]) / need
    margin = outputs[fought[sample], own] - outputs[fought[sample], rival]
    weights = sample_weights(snap)[fought]
    return _Linearised(rows, 1.0 - margin / need, weights, sample, np.zeros(network.size))


def _absolute_rows(network: Network, fought: Index, outputs: Array, jacobian: Array) -> _Linearised:
    """`|e| = e + 2 max(0, -e)`: a row and a slack per value are enough."""
    k, weights = outputs.shape[1], sample_weights(network.snapshot)
    error = (outputs - regression_targets(network.snapshot))[fought].ravel()
    rows = jacobian[fought].reshape(len(error), -1)
    share = np.repeat(weights[fought], k) / (k * weights.sum())
    return _Linearised(rows, -error, 2 * share, np.arange(len(error)), share @ rows)


def _error_rows(network: Network, goal: Objective, fought: Index, outputs: Array, jacobian: Array) -> _Linearised:
    """Rows `e >= +-error - tolerance`; a slack per kept sample (outliers) or one for all (max_error)."""
    snap, k = network.snapshot, outputs.shape[1]
    error = (outputs - regression_targets(snap))[fought].ravel()
    rows = jacobian[fought].reshape(len(error), -1)
    tolerance, price = 0.0, np.ones(1)
    slack: Index = np.zeros(len(error), dtype=np.int64)
    if goal.name == "outliers":
        tolerance = (1 - CLEARANCE) * (goal.tolerance or 0.0)
        price, slack = sample_weights(snap)[fought], np.repeat(np.arange(len(fought)), k)
    need = np.concatenate([error, -error]) - tolerance
    both = np.concatenate([-rows, rows])
    return _Linearised(both, need, price, np.concatenate([slack, slack]), np.zeros(network.size))


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
