"""Blocks with activations and tails: against an enumeration of all activation patterns with an LP each."""

from dataclasses import replace

import numpy as np
import pytest
from block_oracle import optimum
from exactness_blocks import compare, instance

from shared.activations import Activation
from shared.contracts import JobSpec, SolveStatus
from shared.objectives import ObjectiveName
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.network import network_of
from solver_service.milp.core.solution import Solution
from solver_service.milp.formulation.reach import size_of
from solver_service.milp.formulation.relu_block import block_model
from solver_service.milp.solve import solve as solve_any

ACTIVATIONS = ("identity", "relu", "leaky_relu:0.2", "hardtanh")


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


def spec_of(objective: str, radius: float = 0.6, **more: object) -> JobSpec:
    tolerance = 0.4 if objective == "outliers" else None
    fields = {"objective": objective, "radius": radius, "tolerance": tolerance, "limits": {"time_s": 20}}
    return JobSpec.model_validate(fields | more)


def solve(snapshot: Snapshot, spec: JobSpec, start: Moved | None = None, control: Control | None = None) -> Solution:
    return solve_any(snapshot, spec, control, start=start)


@pytest.mark.parametrize("first", [0, 10])
def test_random_blocks_agree_with_an_enumeration(first: int) -> None:
    """20 of the 500 instances of `python benchmarks/exactness_blocks.py --instances 500 --seed 1`."""
    verdicts = {number: compare(*instance(1, number)) for number in range(first, first + 10)}
    assert {number: found.wrong for number, found in verdicts.items() if found.wrong} == {}


@pytest.mark.parametrize("objective", ["mae", "max_error", "outliers", "zero_one", "ramp", "hinge"])
@pytest.mark.parametrize("seed", [0, 2, 145])
def test_the_optimum_equals_an_enumeration_of_patterns(objective: ObjectiveName, seed: int) -> None:
    """With all activations and up to two tail layers the proven optimum is that of the best activation pattern."""
    snapshot = tiny(seed, regression=objective in ("mae", "max_error", "outliers"))
    spec = spec_of(objective)
    result = solve(snapshot, spec).result
    assert result.status is SolveStatus.OPTIMAL
    assert result.objective.final == pytest.approx(optimum(snapshot, spec), abs=2e-5)


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "mae", "outliers"])
@pytest.mark.parametrize("seed", [3, 4])
def test_a_final_layer_with_relu_output_is_solved_exactly(objective: str, seed: int) -> None:
    """A block with an activation and no tail, such as a count or a regression that is never negative."""
    regression = objective in ("mae", "outliers")
    snapshot = replace(tiny(seed, regression=regression), activation=Activation.parse("relu"), tail=())
    if regression:
        snapshot = replace(snapshot, targets=np.abs(snapshot.targets))
    spec = spec_of(objective)
    result = solve(snapshot, spec).result
    assert result.status is SolveStatus.OPTIMAL
    assert result.objective.final == pytest.approx(optimum(snapshot, spec), abs=2e-5)


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_classes_behind_a_tail_are_counted_exactly(backend: str) -> None:
    """Three classes behind two units: every rival has its row, with either solver."""
    rng = np.random.default_rng(11)
    last = TailLayer(rng.normal(size=(3, 2)).astype(np.float32), np.zeros(3, np.float32), Activation.parse("identity"))
    snapshot = replace(
        tiny(1, regression=False), activation=Activation.parse("relu"), tail=(last,), targets=np.array([2, 0, 1])
    )
    spec = spec_of("ramp", solver={"backend": backend})
    result = solve(snapshot, spec).result
    assert result.status is SolveStatus.OPTIMAL
    assert result.objective.final == pytest.approx(optimum(snapshot, spec), abs=2e-5)


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


def test_a_start_with_a_moved_tail_is_taken() -> None:
    """What a lost attempt left, its tail included, is the floor of the next one, even without time to search."""
    snapshot = next(s for s in (tiny(seed, regression=True) for seed in range(20)) if len(s.tail) == 2)
    seen = []
    first = solve(snapshot, spec_of("mae", tail_radius=0.5, limits={"time_s": 2}), control=Control(seen.append))
    assert first.result.improved
    np.testing.assert_array_equal(seen[-1].moved.tail["tail.1.weight"], first.tail["tail.1.weight"])
    stopped = Control()
    stopped.stop()
    again = solve(snapshot, spec_of("mae", tail_radius=0.5), start=first.moved, control=stopped)
    assert again.result.objective.final == first.result.objective.final
    np.testing.assert_array_equal(again.tail["tail.1.weight"], first.tail["tail.1.weight"])
    assert again.result.status in (SolveStatus.INTERRUPTED, SolveStatus.OPTIMAL)


def test_a_model_beyond_the_memory_limit_is_left_to_the_heuristics() -> None:
    """Nothing too large is built; a note says how large it would be."""
    rng = np.random.default_rng(0)
    snapshot = Snapshot(
        task="regression",
        inputs=rng.normal(size=(300, 8)).astype(np.float32),
        targets=rng.normal(size=(300, 1)).astype(np.float32),
        weight=rng.normal(size=(32, 8)).astype(np.float32),
        bias=np.zeros(32, np.float32),
        activation=Activation.parse("relu"),
        tail=(TailLayer(rng.normal(size=(1, 32)).astype(np.float32), None, Activation.parse("identity")),),
    )
    spec = spec_of("mae", limits={"time_s": 1, "memory_mb": 50})
    result = solve(snapshot, spec).result
    assert result.status is SolveStatus.MEMORY_LIMIT
    assert result.improved
    assert result.notes[0].startswith("the model takes about 59 MB")


@pytest.mark.parametrize("activations", [("relu", "hardtanh"), ("leaky_relu:0.1", "relu"), ("hardtanh", "identity")])
@pytest.mark.parametrize("radius", [0.05, 0.5])
def test_the_size_is_known_before_the_model_is_built(activations: tuple[str, str], radius: float) -> None:
    """The estimate is the model's number of coefficients, to a fifth."""
    rng = np.random.default_rng(4)
    snapshot = Snapshot(
        task="regression",
        inputs=rng.normal(size=(40, 5)).astype(np.float32),
        targets=rng.normal(size=(40, 2)).astype(np.float32),
        weight=rng.normal(size=(6, 5)).astype(np.float32),
        bias=np.zeros(6, np.float32),
        activation=Activation.parse(activations[0]),
        tail=(TailLayer(rng.normal(size=(2, 6)).astype(np.float32), None, Activation.parse(activations[1])),),
    )
    network = network_of(snapshot, spec_of("mae", radius=radius))
    built = block_model(network, spec_of("mae").goal).model
    switches = 2 if "hardtanh" in activations else 1
    assert size_of(network).nonzeros == pytest.approx(built.matrix.nnz, rel=0.2)
    assert size_of(network).switching <= built.integer.sum() <= switches * size_of(network).switching


def test_heuristics_end_when_they_gain_nothing() -> None:
    """With a free tail nothing is proven, and a small job still ends long before its time limit."""
    snapshot = next(s for s in (tiny(seed, regression=True) for seed in range(20)) if len(s.tail) == 1)
    result = solve(snapshot, spec_of("mae", tail_radius=0.1, limits={"time_s": 100})).result
    assert result.status in (SolveStatus.GAP_REACHED, SolveStatus.OPTIMAL)
    assert result.timings.total_s < 50


def test_the_same_seed_and_node_limit_give_the_same_answer() -> None:
    """Under a node limit a run is reproducible."""
    snapshot = tiny(5, regression=True)
    spec = spec_of("mae", limits={"time_s": 20, "nodes": 3})
    first, again = solve(snapshot, spec), solve(replace(snapshot), spec)
    np.testing.assert_array_equal(first.weight, again.weight)


@pytest.mark.parametrize("seed", range(12))
def test_a_unit_that_is_off_for_all_samples_is_switched_on(seed: int) -> None:
    """Nothing tells a descent where; a corner of the box does, if any place of it does."""
    rng = np.random.default_rng(seed)
    snapshot = Snapshot(
        task="regression",
        inputs=rng.normal(size=(3, 2)).astype(np.float32),
        targets=np.array([[3.0], [3.0], [0.5]], dtype=np.float32),
        weight=rng.normal(scale=0.3, size=(1, 2)).astype(np.float32),
        bias=np.array([-1.4], dtype=np.float32),
        activation=Activation.parse("relu"),
        tail=(TailLayer(np.array([[1.5]], dtype=np.float32), None, Activation("identity")),),
    )
    spec = JobSpec.model_validate({"objective": "mse", "radius": 0.7, "limits": {"time_s": 20}})
    ends = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 15)] * 3), axis=-1).reshape(-1, 3)
    least = min(
        spec.value(snapshot, snapshot.weight + step[None, :2].astype("f4"), snapshot.bias + step[2:].astype("f4"))
        for step in ends
    )
    assert solve(snapshot, spec).result.objective.final <= least * (1 + 1e-6)
