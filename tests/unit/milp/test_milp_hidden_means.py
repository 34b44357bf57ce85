"""Whole networks whose targets have a mean far from 0, which the last bias may be unable to reach."""

import numpy as np
import pytest

from shared.activations import IDENTITY, Activation
from shared.contracts import JobSpec
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.control import Control
from solver_service.milp.core.network import network_of
from solver_service.milp.network.joint.descent import Descender
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.stand_ins import stand_in
from solver_service.milp.network.keeping import Keeper
from solver_service.milp.network.solve import _Job
from solver_service.milp.network.step_incumbents import BlockIncumbents

MEAN = 60.0
"""In units of the targets' spread."""


def far_off(activation: str, spread: float, outputs: int = 2, mean: float = MEAN) -> Snapshot:
    """Thirty-two units on thirty inputs, 200 samples."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(200, 30)).astype(np.float32)
    targets = np.sin(inputs @ rng.normal(size=(30, outputs)) / 3) + 0.1 * rng.normal(size=(200, outputs))
    last = TailLayer((rng.normal(size=(outputs, 32)) / 4).astype(np.float32), np.zeros(outputs, np.float32), IDENTITY)
    return Snapshot(
        task="regression",
        inputs=inputs,
        targets=(spread * (targets / targets.std() + mean)).astype(np.float32),
        weight=(rng.normal(size=(32, 30)) / 4).astype(np.float32),
        bias=np.zeros(32, np.float32),
        activation=Activation.parse(activation),
        tail=(last,),
    )


def evaluator(snapshot: Snapshot, spec: JobSpec) -> Evaluator:
    return Evaluator(network_of(snapshot, spec), stand_in(spec.goal, snapshot))


def script(snapshot: Snapshot, spec: JobSpec, steps: int) -> float:
    """Adam in the box over the weights themselves, with steps of a tenth of a weight's usual size at first."""
    evaluate = evaluator(snapshot, spec)
    scaling = evaluate.scaling
    here, best = scaling.own_variables, np.inf
    moment, square = np.zeros_like(here), np.zeros_like(here)
    for number in range(1, steps + 1):
        value, slope = evaluate(here)
        best = min(best, value)
        slope = slope / scaling.unit
        moment, square = 0.9 * moment + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        length = 0.1 * 0.5 * (1 + np.cos(np.pi * number / steps))
        way = moment / (1 - 0.9**number) / (np.sqrt(square / (1 - 0.99**number)) + 1e-12)
        here = np.clip(here - length * way / scaling.unit, scaling.lower, scaling.upper)
    return best


@pytest.mark.parametrize("tail_radius", [1.0, 5.0])
@pytest.mark.parametrize(
    ("objective", "activation", "most"),
    [("mse", "elu", 0.1), ("mse", "relu", 0.1), ("mae", "gelu", 0.7), ("huber", "tanh", 0.5), ("mse", "silu", 0.1)],
)
def test_a_mean_far_from_0_takes_fewer_evaluations_than_a_script_does(
    objective: str, activation: str, most: float, tail_radius: float
) -> None:
    """The last bias alone does not reach it: all units have to move for it. `most` is of the script's value."""
    snapshot = far_off(activation, spread=0.5)
    fields = {"objective": objective, "radius": 2.0, "bias_radius": 200.0, "tail_radius": tail_radius}
    spec = JobSpec.model_validate(fields)
    evaluate = evaluator(snapshot, spec)
    found = Descender(evaluate, lambda: False)(evaluate.scaling.own_variables, effort=100)
    assert found.value <= most * script(snapshot, spec, 100)


def test_the_last_layer_counts_in_the_spread_about_the_mean_or_in_what_it_can_come_to() -> None:
    """Whatever the mean; targets that are all the same leave their size."""
    spread, spec = 0.5, JobSpec.model_validate({"objective": "mse", "radius": 1.0, "tail_radius": 100.0})
    units = [
        Scaling(network_of(far_off("relu", spread, mean=mean), spec)).in_units(1) for mean in (0.0, MEAN, 100 * MEAN)
    ]
    np.testing.assert_allclose(units[1], units[0], rtol=2e-2)
    np.testing.assert_allclose(units[2], units[0], rtol=1e-1)
    near = JobSpec.model_validate({"objective": "mse", "radius": 1.0, "tail_radius": 0.01})
    snapshot = far_off("relu", spread)
    reach = np.abs(np.hstack([snapshot.tail[0].weight, np.zeros((2, 1))])) + 0.01
    found = Scaling(network_of(snapshot, near)).in_units(1)
    np.testing.assert_allclose(found, np.where(2 * reach < units[1], reach, units[1]))
    assert (found < units[1]).any()
    same = Scaling(network_of(far_off("relu", 1e-12, mean=1e12), spec)).in_units(1)
    np.testing.assert_allclose(same, 1.0, rtol=1e-3)


@pytest.mark.parametrize("objective", ["mse", "mae", "huber", "trimmed_mae"])
def test_a_start_that_is_far_off_is_no_unit_of_what_is_left(objective: str) -> None:
    """What counts as none is a part of what a constant leaves, wherever targets are and whatever the weights."""
    spec = JobSpec.model_validate({"objective": objective, "radius": 1.0, "tail_radius": 1.0})
    slack = []
    for mean in (0.0, MEAN, 100 * MEAN):
        snapshot = far_off("relu", 0.5, mean=mean)
        network = network_of(snapshot, spec)
        incumbents = BlockIncumbents(network, spec.goal, Control(), Keeper(snapshot, spec))
        slack.append(_Job(network, spec, Control(), incumbents, np.random.default_rng(0)).slack)
    assert slack[1] == pytest.approx(slack[0], rel=0.1)
    assert slack[2] == pytest.approx(slack[0], rel=0.1)
    assert slack[0] > 0
