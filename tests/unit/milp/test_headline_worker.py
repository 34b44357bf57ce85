"""The stand-ins of the headline's ablation answer like any solver: inside the box, and with a value that is true."""

import numpy as np
import pytest

from benchmarks.headline.worker import answer, heuristics_only
from shared.activations import Activation
from shared.contracts import JobSpec, Limits
from shared.objectives import Objective
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.moved import tail_with
from solver_service.milp.solve import solve

RADIUS = 0.3


def classes() -> Snapshot:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(60, 4)).astype(np.float32)
    targets = (inputs[:, 0] + 0.5 * generator.normal(size=60) > 0).astype(np.int64)
    weight, bias = generator.normal(size=(2, 4)).astype(np.float32), np.zeros(2, np.float32)
    return Snapshot(task="classification", inputs=inputs, targets=targets, weight=weight, bias=bias)


def network() -> Snapshot:
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(40, 3)).astype(np.float32)
    tail = TailLayer(generator.normal(size=(1, 4)).astype(np.float32), np.zeros(1, np.float32), Activation("identity"))
    return Snapshot(
        task="regression",
        inputs=inputs,
        targets=np.abs(inputs[:, :1]),
        weight=generator.normal(size=(4, 3)).astype(np.float32),
        bias=np.zeros(4, np.float32),
        activation=Activation("relu"),
        tail=(tail,),
    )


def spec(run: str, snapshot: Snapshot, tail_radius: float = 0.0) -> JobSpec:
    name = "ramp" if snapshot.task == "classification" else "mse"
    return JobSpec(objective=name, radius=RADIUS, tail_radius=tail_radius, run=run, limits=Limits(time_s=0.5))


@pytest.mark.parametrize("run", ["rival-hybrid-0", "heuristics-hybrid-0", "everything-hybrid-0"])
@pytest.mark.parametrize(("snapshot", "tail_radius"), [(classes(), 0.0), (network(), RADIUS)])
def test_whoever_answers_stays_in_the_box_and_tells_the_truth(run: str, snapshot: Snapshot, tail_radius: float) -> None:
    """The weights are within the radius, and give the value that is reported, which is no worse than the start's."""
    job = spec(run, snapshot, tail_radius)
    found = answer(snapshot, job)
    assert np.abs(found.weight - snapshot.weight).max() <= RADIUS * (1 + 1e-6)
    value = Objective(job.objective).value(snapshot, found.weight, found.bias, tail_with(snapshot, found.moved))
    assert value == pytest.approx(found.result.objective.final, rel=1e-6)
    assert found.result.objective.final <= found.result.objective.start
    assert bool(found.tail) == (tail_radius > 0)


def test_heuristics_alone_prove_what_screening_proves_and_no_more() -> None:
    """What no weights in the box can mend is counted before any search; relaxations would raise that."""
    snapshot = classes()
    with heuristics_only():
        alone = solve(snapshot, spec("x", snapshot)).result
    assert alone.nodes == 0
    assert alone.objective.bound < solve(snapshot, spec("x", snapshot)).result.objective.bound
