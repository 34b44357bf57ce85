"""Blocks with activations and tails: against an enumeration of all activation patterns with an LP each."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from shared.activations import Activation
from shared.contracts import JobSpec, SolveStatus
from shared.objectives import EPSILON, ObjectiveName
from shared.snapshot import Snapshot, TailLayer, regression_targets
from solver_service.milp.control import Control
from solver_service.milp.hidden.network import network_of
from solver_service.milp.hidden.solve import solve_block
from solver_service.milp.report import Solution

ACTIVATIONS = ("identity", "relu", "leaky_relu:0.2", "hardtanh")
PIECES = {
    "identity": [(-np.inf, np.inf, 1.0, 0.0)],
    "relu": [(-np.inf, 0.0, 0.0, 0.0), (0.0, np.inf, 1.0, 0.0)],
    "leaky_relu:0.2": [(-np.inf, 0.0, 0.2, 0.0), (0.0, np.inf, 1.0, 0.0)],
    "hardtanh": [(-np.inf, -1.0, 0.0, -1.0), (-1.0, 1.0, 1.0, 0.0), (1.0, np.inf, 0.0, 1.0)],
}
"""Each activation's pieces: from, to, slope, constant."""

Rows = list[tuple[np.ndarray, float]]


def tiny(seed: int, *, regression: bool) -> Snapshot:
    """A block of two units on one or two inputs, with up to two tail layers of width two, for three samples."""
    rng = np.random.default_rng(seed)
    n, d, width = 3, int(rng.integers(1, 3)), 2
    tail = []
    for _ in range(int(rng.integers(0, 3))):
        bias = rng.normal(size=width).astype(np.float32) if rng.random() < 0.7 else None
        weight = rng.normal(size=(width, width)).astype(np.float32)
        tail.append(TailLayer(weight, bias, Activation.parse(str(rng.choice(ACTIVATIONS)))))
    first = ACTIVATIONS[1:] if not tail else ACTIVATIONS
    return Snapshot(
        task="regression" if regression else "classification",
        inputs=rng.normal(size=(n, d)).astype(np.float32),
        targets=rng.normal(size=(n, width)).astype(np.float32) if regression else rng.integers(0, width, n),
        weight=rng.normal(size=(width, d)).astype(np.float32),
        bias=rng.normal(size=width).astype(np.float32) if rng.random() < 0.7 else None,
        activation=Activation.parse(str(rng.choice(first))),
        tail=tuple(tail),
    )


class Oracle:
    """Minimises by walking through every feasible activation pattern, sample by sample; scipy's linprog decides."""

    def __init__(self, snapshot: Snapshot, spec: JobSpec) -> None:
        self.snapshot, self.spec = snapshot, spec
        h, d = snapshot.weight.shape
        self.size = h * d + (h if snapshot.bias is not None else 0)
        self.best = np.inf

    def minimum(self) -> float:
        self._sample(0, [], [], 0.0)
        return self.best

    def _block(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The block's pre-activations of a sample, as matrix and constant of the change."""
        snap = self.snapshot
        h, d = snap.weight.shape
        matrix = np.zeros((h, self.size))
        for i in range(h):
            matrix[i, i * d : (i + 1) * d] = snap.inputs[n]
            if snap.bias is not None:
                matrix[i, h * d + i] = 1.0
        constant = snap.weight.astype(float) @ snap.inputs[n].astype(float)
        return matrix, constant + (0.0 if snap.bias is None else snap.bias)

    def _feasible(self, rows: Rows) -> bool:
        return self._lp(np.zeros(self.size), rows) is not None

    def _lp(self, cost: np.ndarray, rows: Rows) -> float | None:
        """Minimise over `row x <= side`; extra columns beyond the change are nonnegative."""
        extra = len(cost) - self.size
        wide = np.array([np.pad(row, (0, len(cost) - len(row))) for row, _ in rows]).reshape(len(rows), len(cost))
        box = [(-self.spec.radius, self.spec.radius)] * self.size + [(0, None)] * extra
        found = linprog(cost, A_ub=wide if rows else None, b_ub=[side for _, side in rows] or None, bounds=box)
        return float(found.fun) if found.status == 0 else None

    def _patterns(self, n: int, rows: Rows) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
        """Every feasible pattern of one sample: its rows, and the outputs as matrix and constant."""
        snap = self.snapshot
        layers = [(None, str(snap.activation))] + [(layer, str(layer.activation)) for layer in snap.tail]

        def walk(index: int, unit: int, rows: Rows, matrix: np.ndarray, constant: np.ndarray, done: list) -> Iterator:
            if unit == len(matrix):
                values = np.array([m for m, _ in done]), np.array([c for _, c in done])
                if index + 1 == len(layers):
                    yield rows, *values
                    return
                layer = layers[index + 1][0]
                weight = layer.weight.astype(float)
                bias = 0.0 if layer.bias is None else layer.bias.astype(float)
                yield from walk(index + 1, 0, rows, weight @ values[0], weight @ values[1] + bias, [])
                return
            for low, high, slope, shift in PIECES[layers[index][1]]:
                more = list(rows)
                if low > -np.inf:
                    more.append((-matrix[unit], constant[unit] - low))
                if high < np.inf:
                    more.append((matrix[unit], high - constant[unit]))
                if len(more) == len(rows) or self._feasible(more):
                    value = (slope * matrix[unit], slope * constant[unit] + shift)
                    yield from walk(index, unit + 1, more, matrix, constant, [*done, value])

        yield from walk(0, 0, rows, *self._block(n), [])

    def _sample(self, n: int, rows: Rows, outputs: list, paid: float) -> None:
        if n == self.snapshot.samples:
            self._finish(rows, outputs, paid)
            return
        for more, matrix, constant in self._patterns(n, rows):
            for fought, price in ((True, 0.0), (False, 1.0)):
                if fought or self.spec.objective in ("zero_one", "ramp", "outliers"):
                    self._sample(n + 1, more, [*outputs, (matrix, constant) if fought else None], paid + price)

    def _finish(self, rows: Rows, outputs: list, paid: float) -> None:
        """The convex problem of one pattern: hard rows for counts, one slack per loss term otherwise."""
        snap, name = self.snapshot, self.spec.objective
        terms = []  # (row, constant) pairs per slack: slack >= row x + constant
        for n, output in enumerate(outputs):
            if output is None:
                continue
            matrix, constant = output
            if snap.task == "classification":
                y = int(snap.targets[n])
                need = EPSILON if name == "zero_one" else self.spec.margin
                terms.append([(matrix[1 - y] - matrix[y], constant[1 - y] - constant[y] + need)])
            else:
                error = constant - regression_targets(snap)[n]
                both = [(s * matrix[k], s * error[k]) for k in range(len(error)) for s in (1, -1)]
                terms += [both] if name in ("max_error", "outliers") else [both[:2], both[2:]]
        if name == "max_error":
            terms = [[pair for pairs in terms for pair in pairs]]
        hard = name in ("zero_one", "outliers")
        scale = {"mae": 1 / (2 * snap.samples), "max_error": 1.0}.get(name, 1 / self.spec.margin)
        cost = np.concatenate([np.zeros(self.size), np.full(0 if hard else len(terms), scale)])
        rows = list(rows)
        for slot, pairs in enumerate(terms):
            for row, constant in pairs:
                wide = np.zeros(len(cost))
                wide[: self.size] = row
                if not hard:
                    wide[self.size + slot] = -1.0
                rows.append((wide, (self.spec.tolerance or 0.0) - constant))
        found = self._lp(cost, rows)
        if found is not None:
            self.best = min(self.best, paid + found)


def spec_of(objective: str, radius: float = 0.6, **more: object) -> JobSpec:
    tolerance = 0.4 if objective == "outliers" else None
    fields = {"objective": objective, "radius": radius, "tolerance": tolerance, "limits": {"time_s": 20}}
    return JobSpec.model_validate(fields | more)


def solve(snapshot: Snapshot, spec: JobSpec) -> Solution:
    return solve_block(snapshot, spec, Control(), None)


@pytest.mark.parametrize("objective", ["mae", "max_error", "outliers", "zero_one", "ramp", "hinge"])
@pytest.mark.parametrize("seed", [0, 1, 2, 145])
def test_the_optimum_equals_an_enumeration_of_patterns(objective: ObjectiveName, seed: int) -> None:
    """With all activations and up to two tail layers the proven optimum is that of the best activation pattern."""
    snapshot = tiny(seed, regression=objective in ("mae", "max_error", "outliers"))
    spec = spec_of(objective)
    result = solve(snapshot, spec).result
    assert result.status is SolveStatus.OPTIMAL
    assert result.objective.final == pytest.approx(Oracle(snapshot, spec).minimum(), abs=2e-5)


@pytest.mark.parametrize("seed", range(4))
def test_derivatives_are_those_of_the_outputs(seed: int) -> None:
    """Gradient and Jacobian, tail included, agree with differences."""
    snapshot = tiny(seed, regression=True)
    spec = spec_of("mae", tail_radius=0.5 if snapshot.tail else 0.0)
    network = network_of(snapshot, spec)
    rng = np.random.default_rng(seed)
    steps, pull = rng.uniform(-1, 1, (2, network.size)), rng.normal(size=(2, 3, 2))
    gradient = network.trace(steps).pull_back(pull)
    jacobian = network.trace(steps[:1]).jacobian()
    np.testing.assert_allclose(np.einsum("nkp,nk->p", jacobian, pull[0]), gradient[0], atol=1e-9)
    for entry in range(network.size):
        bump = np.zeros(network.size)
        bump[entry] = 1e-6
        change = (network.outputs(steps + bump) - network.outputs(steps - bump)) / 2e-6
        np.testing.assert_allclose((change * pull).sum(axis=(1, 2)), gradient[:, entry], atol=1e-5)


def test_a_dead_unit_is_revived() -> None:
    """A ReLU that is dead on every sample has no gradient; the solve brings it back to life."""
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0, 1, (30, 2)).astype(np.float32)
    targets = (2 * inputs[:, :1] + 1).astype(np.float32)
    snapshot = Snapshot(
        task="regression",
        inputs=inputs,
        targets=targets,
        weight=np.ones((2, 2), np.float32),
        bias=np.full(2, -10, np.float32),
        activation=Activation.parse("relu"),
        tail=(TailLayer(np.ones((1, 2), np.float32), np.zeros(1, np.float32), Activation.parse("identity")),),
    )
    found = solve(snapshot, spec_of("mae", radius=12.0, limits={"time_s": 5})).result.objective
    assert found.start == pytest.approx(float(targets.mean()), rel=1e-6)
    assert found.final < 1e-3


def test_a_moved_tail_comes_back_inside_its_box() -> None:
    """With `tail_radius` the last layer moves too: it is returned by its wire names, inside its box, as counted."""
    snapshot = next(s for s in (tiny(seed, regression=True) for seed in range(20)) if len(s.tail) == 2)
    spec = spec_of("mae", tail_radius=0.3, limits={"time_s": 1, "nodes": 50})
    solution = solve(snapshot, spec)
    moved = solution.tail["tail.1.weight"]
    assert np.abs(moved - snapshot.tail[1].weight).max() <= 0.3
    last = TailLayer(moved, solution.tail.get("tail.1.bias"), snapshot.tail[1].activation)
    value = spec.goal.value(snapshot, solution.weight, solution.bias, (snapshot.tail[0], last))
    assert value == solution.result.objective.final
    assert solution.result.objective.final <= solution.result.objective.start


def test_the_same_seed_and_node_limit_give_the_same_answer() -> None:
    """Under a node limit a run is reproducible."""
    snapshot = tiny(5, regression=True)
    spec = spec_of("mae", limits={"time_s": 20, "nodes": 3})
    first, again = solve(snapshot, spec), solve(replace(snapshot), spec)
    np.testing.assert_array_equal(first.weight, again.weight)
