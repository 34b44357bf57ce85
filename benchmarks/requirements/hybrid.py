"""The hybrid: GD has trained the network, and jobs of a pool move its last layer under the requirement."""

from dataclasses import dataclass

import numpy as np

from benchmarks.requirements.measures import Layer, Part
from benchmarks.requirements.settings import Setting
from shared.contracts import Constraint, JobSpec, Limits, SolverOptions
from shared.objectives import ObjectiveName
from shared.snapshot import FloatArray, Snapshot
from trainer.pool.client import SolverClient

BIAS_RADIUS, WIDE = 3.0, 2.0


@dataclass(frozen=True)
class Arm:
    """What a job minimises, with which price of squared weights, and how far weights may move.

    With `first`, a job without a requirement refits the layer before: log loss, this price, in the widest box.
    """

    objective: ObjectiveName
    radius: float
    l2: float = 0.0
    first: float | None = None


ARMS = (
    Arm("log_loss", WIDE, 3e-3),
    Arm("log_loss", WIDE, 3e-2),
    Arm("zero_one", 0.02, first=3e-2),
    Arm("zero_one", 1e-4),
)
"""Fitted anew under the requirement, at the prices that rivals' refits try; refitted and then moved a little under it;
biases alone."""


def solve(
    setting: Setting, layer: Layer, part: Part, margin: float, arm: Arm, seed: int, client: SolverClient
) -> Layer:
    """One job, or more: the layer that comes back. Where nothing keeps the margin, half of it is asked for, then none.

    The layer as it was where no weights that keep the requirement were found at all.
    """
    if arm.first is not None:
        layer = _answer(setting, layer, part, Arm("log_loss", WIDE, arm.first), None, seed, client) or layer
    for asked in (margin, margin / 2, 0.0):
        found = _answer(setting, layer, part, arm, constraint(setting, asked), seed, client)
        if found is not None:
            return found
    return layer


def _answer(
    setting: Setting, layer: Layer, part: Part, arm: Arm, asked: Constraint | None, seed: int, client: SolverClient
) -> Layer | None:
    """A job's layer; None where it found none that keeps what was asked."""
    snapshot = Snapshot(
        task="classification",
        inputs=part.features,
        targets=part.labels,
        weight=layer.weight.astype(np.float32),
        bias=layer.bias.astype(np.float32),
        group=part.group,
        radius=_radii(setting, layer, arm),
        bias_radius=np.full(len(layer.bias), BIAS_RADIUS, dtype=np.float32),
    )
    spec = JobSpec(
        objective=arm.objective,
        l2=arm.l2,
        constraints=[] if asked is None else [asked],
        limits=Limits(time_s=setting.time_s),
        solver=SolverOptions(seed=seed),
    )
    job = client.solve(snapshot, spec)
    status = client.wait(job.id)
    if status.result is None:
        raise RuntimeError(f"job {job.id} ended as {status.state}: {status.error}")
    if not status.result.feasible:
        return None
    found = client.result(job.id)
    assert found.bias is not None
    return Layer(found.weight.astype(np.float64), found.bias.astype(np.float64))


def _radii(setting: Setting, layer: Layer, arm: Arm) -> FloatArray:
    """How far each weight may move [K, d]; that of the group, where it is a feature, as far as a bias."""
    radii = np.full(layer.weight.shape, arm.radius, dtype=np.float32)
    if setting.kind == "gap":
        radii[:, -1] = BIAS_RADIUS
    return radii


def constraint(setting: Setting, margin: float) -> Constraint:
    """The requirement and a margin as a job's constraint."""
    match setting.kind:
        case "gap":
            return Constraint(type="group_rate_gap", value=max(0.0, setting.level - margin), classes=[1])
        case "group floor":
            return Constraint(type="recall_floor", value=setting.level + margin, classes=[1], groups=[0, 1])
        case _:
            return Constraint(type="recall_floor", value=setting.level + margin)
