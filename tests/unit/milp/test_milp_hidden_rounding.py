"""Zeros, grids and levels in hidden blocks of any size: the search is ahead of descents through the rounding."""

import numpy as np
import pytest

from shared.activations import IDENTITY, Activation
from shared.contracts import JobSpec
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.network import network_of
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.stand_ins import stand_in
from solver_service.milp.network.keeping import Keeper
from solver_service.milp.solve import solve

LEVELS = (-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0)
ASKED = {
    "levels": {"type": "levels", "levels": list(LEVELS)},
    "grid": {"type": "grid", "value": 0.5},
    "max_nonzero": {"type": "max_nonzero", "value": 60},
}
KINDS = [
    ("mse", "regression", "relu", "levels", 1.0, 0.5),
    ("mse", "regression", "relu", "levels", 0.0, 1.0),
    ("mae", "regression", "gelu", "levels", 1.0, 1.0),
    ("mse", "regression", "elu", "grid", 1.0, 0.5),
    ("mse", "regression", "silu", "max_nonzero", 1.0, 0.2),
    ("log_loss", "classification", "relu", "levels", 1.0, 1.0),
    ("ramp", "multilabel", "tanh", "levels", 1.0, 0.5),
    ("zero_one", "binary", "relu", "levels", 0.0, 0.2),
]
"""Objective, task, activation, what is asked for, how far the tail may move, and the most of the script's value."""


def hidden(task: str, activation: str) -> Snapshot:
    """Thirty-two units on ten inputs, 200 samples."""
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(200, 10)).astype(np.float32)
    scores = np.sin(2 * inputs[:, :3]) + inputs[:, 3:6] * inputs[:, 6:9] + 0.1 * rng.normal(size=(200, 3))
    targets = {
        "regression": scores[:, :1].astype(np.float32),
        "classification": scores.argmax(axis=1).astype(np.int64),
        "binary": (scores[:, 0] > 0).astype(np.int64),
        "multilabel": (scores > 0).astype(np.int64),
    }[task]
    outputs = 1 if task in ("regression", "binary") else 3
    last = TailLayer((rng.normal(size=(outputs, 32)) / 5).astype(np.float32), np.zeros(outputs, np.float32), IDENTITY)
    return Snapshot(
        task=task,  # type: ignore[arg-type]
        inputs=inputs,
        targets=targets,
        weight=(rng.normal(size=(32, 10)) / 3).astype(np.float32),
        bias=np.zeros(32, np.float32),
        activation=Activation.parse(activation),
        tail=(last,),
    )


def spec_of(objective: str, asked: str, tail_radius: float) -> JobSpec:
    fields = {
        "objective": objective,
        "radius": 1.5,
        "tail_radius": tail_radius,
        "constraints": [ASKED[asked]],
        "limits": {"nodes": 1, "time_s": 600},
    }
    return JobSpec.model_validate(fields)


def script(snapshot: Snapshot, spec: JobSpec, steps: int) -> float:
    """Adam with slopes at the rounded weights, as one would write it; the best value of the rounded weights seen."""
    network, keeper = network_of(snapshot, spec), Keeper(snapshot, spec)
    kinder = spec.goal if spec.objective != "zero_one" else spec.model_copy(update={"objective": "log_loss"}).goal
    scaling = Scaling(network, (keeper.low, keeper.high))
    evaluate = Evaluator(network, stand_in(kinder, snapshot), scaling=scaling)
    latent, best = scaling.variables(np.zeros(network.size)), np.inf
    moment, square = np.zeros_like(latent), np.zeros_like(latent)
    for number in range(1, steps + 1):
        moved = keeper.fitted(network.moved(scaling.step(latent)))
        held = scaling.variables(network.step_to(moved))
        slope = evaluate(held)[1]
        if number % 20 == 0:
            outputs = np.asarray(evaluate.outputs(held).T, dtype=np.float64)
            best = min(best, spec.goal.of_outputs(snapshot, outputs))
        moment, square = 0.9 * moment + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        length = 0.1 * 0.5 * (1 + np.cos(np.pi * number / steps))
        way = moment / (1 - 0.9**number) / (np.sqrt(square / (1 - 0.99**number)) + 1e-12)
        latent = np.clip(latent - length * way, scaling.lower, scaling.upper)
    return best


@pytest.mark.parametrize(("objective", "task", "activation", "asked", "tail_radius", "most"), KINDS)
def test_rounded_blocks_of_any_size_are_ahead_of_descents_through_the_rounding(
    objective: str, task: str, activation: str, asked: str, tail_radius: float, most: float
) -> None:
    """By rounds, not by the clock."""
    snapshot, spec = hidden(task, activation), spec_of(objective, asked, tail_radius)
    result = solve(snapshot, spec).result
    assert result.feasible
    assert result.objective.final <= most * script(snapshot, spec, 1000)
