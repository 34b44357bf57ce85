"""Parts of random tiny jobs: constraints, inputs with structure, and jobs over all tasks and objectives."""

import numpy as np

from shared.contracts import JobSpec
from shared.objectives import OF_TASK
from shared.snapshot import Snapshot

ON_SAMPLES = ("min_accuracy", "recall_floor", "group_rate_gap")
ON_SIGNS = ("nonnegative", "monotone")
ON_WEIGHTS = (*ON_SIGNS, "max_nonzero", "grid", "levels", "movement_cost")


def with_structure(rng, tensors):
    """More inputs, in any order: zeros, constants, and multiples of others, some of which rounding spoils."""
    inputs = tensors["inputs"]
    factors = rng.choice([0.0, 1.0, -1.0, 2.0, -0.5, 0.3], 3)
    constants = np.full((len(inputs), 1), rng.choice([1.0, -2.0, 0.7]))
    more = np.hstack([inputs, inputs[:, rng.integers(inputs.shape[1], size=3)] * factors, constants])
    chosen = rng.permutation(more.shape[1])[: rng.integers(2, more.shape[1] + 1)]
    widened = {"inputs": more[:, chosen].astype(np.float32)}
    for name in tensors.keys() & {"weight", "radius"}:
        source = rng.integers(tensors[name].shape[1], size=chosen.size)
        widened[name] = tensors[name][:, source] * rng.choice([1, 0.5], chosen.size).astype(np.float32)
    return tensors | widened


def quarters(values):
    """Round numbers, for ties, equal samples, columns of zeros and limits that are met exactly."""
    values = np.asarray(values)
    return values if values.dtype == np.int64 else np.round(values * 4) / 4


def constraint(rng, kind, snapshot, *, radius=0.4, plain=False):
    """A constraint of this kind that may bind, and may be too much."""
    h, d = snapshot.weight.shape
    fields = {"type": kind}
    if kind in ON_WEIGHTS:
        if kind in ("grid", "levels") or rng.random() < 0.5:
            fields["classes"] = [int(unit) for unit in rng.choice(h, rng.integers(1, min(h, 2) + 1), replace=False)]
        if rng.random() < 0.4:
            fields["indices"] = [int(rng.integers(d))]
    present = [] if snapshot.task == "regression" else np.unique(snapshot.targets)
    if kind in ("recall_floor", "precision_floor") and rng.random() < 0.5:
        fields["classes"] = [int(rng.choice(present))]
    values = {
        "min_accuracy": lambda: rng.integers(1, snapshot.samples + 1) / snapshot.samples,
        "recall_floor": lambda: rng.choice([0.3, 0.5, 1.0]),
        "precision_floor": lambda: rng.choice([0.5, 0.7, 1.0]),
        "group_rate_gap": lambda: rng.choice([0.0, 0.2, 0.5]),
        "nonnegative": lambda: 0,
        "monotone": lambda: rng.choice([-1, 1]),
        "max_nonzero": lambda: rng.integers(0, h * d),
        "grid": lambda: rng.choice([0.25, 0.5]) if plain else radius * rng.uniform(0.4, 1.3),
        "movement_cost": lambda: 10 ** rng.uniform(-2, 0),
    }
    if kind == "levels":
        own = snapshot.weight.ravel()[rng.integers(h * d)]
        levels = [0.0, 0.25, -0.5] if plain else [0.0, *(own + radius * rng.uniform(-0.8, 0.8, 2))]
        return {**fields, "levels": [float(level) for level in levels]}
    return {**fields, "value": float(values[kind]())}


def wide_instance(seed, number):
    """A tiny snapshot of any task, and a job of any objective with up to two constraints of any kind that fits it."""
    rng = np.random.default_rng([seed, number, 2])
    task = str(rng.choice(list(OF_TASK)))
    objective = str(rng.choice(OF_TASK[task]))
    samples = (*ON_SAMPLES, "precision_floor") if task in ("classification", "binary") else ()
    many = int(rng.choice(3, p=[0.25, 0.5, 0.25]))
    types = [str(kind) for kind in rng.choice((*samples, *ON_WEIGHTS), many, replace=False)]
    if "grid" in types and "levels" in types:
        types.remove("grid")  # a weight has one of them
    snapshot = _tiny(rng, task, objective, types)
    fields = {
        "margin": float(rng.uniform(0.3, 1.5)),
        "tolerance": 0.5,
        "l2": float(rng.choice([0.0, 0.1])) if objective == "log_loss" else 0.0,
        "delta": float(rng.uniform(0.1, 2.0)),
        "quantile": float(rng.uniform(0.05, 0.95)),
        "trim": float(rng.choice([0.0, 0.2, 0.35])),
    }
    radius = float(rng.uniform(0.2, 1.0))
    asked = [constraint(rng, kind, snapshot, radius=radius) for kind in types]
    for one in asked:
        if one["type"] == "recall_floor" and snapshot.group is not None and rng.random() < 0.6:
            one["groups"] = [int(snapshot.group[0])]
    return snapshot, JobSpec(objective=objective, radius=radius, constraints=asked, limits={"time_s": 60}, **fields)


def _tiny(rng, task, objective, types):
    few = objective in ("ramp", "outliers") or "precision_floor" in types or "group_rate_gap" in types
    n, d = int(rng.integers(3, 5 if few else 7)), int(rng.integers(1, 3))
    h = {"binary": 1, "classification": int(rng.integers(2, 4))}.get(task, int(rng.integers(1, 3)))
    if task == "multilabel":
        n = 3
    targets = {
        "classification": lambda: rng.integers(0, h, n),
        "binary": lambda: rng.integers(0, 2, n),
        "multilabel": lambda: rng.integers(0, 2, (n, h)),
        "regression": lambda: rng.normal(size=(n, h)).astype(np.float32),
    }
    tensors = {
        "inputs": rng.normal(size=(n, d)).astype(np.float32),
        "weight": rng.normal(scale=0.5, size=(h, d)).astype(np.float32),
        "targets": targets[task](),
    }
    if rng.random() < 0.7:
        tensors["bias"] = rng.normal(scale=0.5, size=h).astype(np.float32)
    if rng.random() < 0.3:
        tensors["offset"] = rng.normal(scale=0.5, size=(n, h)).astype(np.float32)
    if rng.random() < 0.3 and not objective.startswith("trimmed"):
        tensors["sample_weight"] = (rng.integers(1, 5, n) / 2).astype(np.float32)
    if "group_rate_gap" in types or objective == "worst_group" or rng.random() < 0.3:
        tensors["group"] = rng.permutation(np.arange(n) % int(rng.integers(2, 4))) + 3
    return Snapshot(task=task, **tensors)
