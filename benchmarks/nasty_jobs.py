"""Tiny jobs that numbers make hard: other units, weights over sixty decades, equal samples, empty columns, ties.

A job is drawn well scaled and then put into other units by powers of two, which float32 follows exactly; so its
optimum is the drawn one's times a power of two. What a decimal unit is more than that the drawn job takes up.
"""

from dataclasses import dataclass, replace

import numpy as np
from drawn_jobs import quarters, wide_instance
from oracle import ON_SAMPLES

from shared.contracts import JobSpec
from shared.snapshot import Snapshot

DECADES = 12
WEIGHT_DECADES = 30
LOW_PRECISION = 2.0**-100
"""Tensors whose entries stay above it in size, or are 0, keep all their digits."""
FIXED = ("zero_one", "log_loss", "worst_class", "worst_group")
"""Objectives with a unit of their own for scores: the margin 1e-4, or the exponential."""
SQUARES = ("mse", "trimmed_mse", "huber")
BY_SUM = ("zero_one", "ramp", "hinge", "outliers")
"""Objectives that grow with the samples' weights; all others are means."""


@dataclass(frozen=True)
class Units:
    """Exponents of two: what inputs, scores (targets, margins, biases) and sample weights are multiplied by."""

    inputs: int = 0
    scores: int = 0
    weights: int = 0


@dataclass(frozen=True, eq=False)
class Drawn:
    """A well-scaled job, the same one in other units, and what its values are multiplied by there.

    Of `mixed` jobs, whose weights spread over sixty decades or whose scores have a unit and are in another, no oracle
    that computes in float64 is to be trusted.
    """

    twin: tuple[Snapshot, JobSpec]
    job: tuple[Snapshot, JobSpec]
    factor: float
    mixed: bool


def draw(seed, number, *, time_s):
    """The instance of these numbers."""
    rng = np.random.default_rng([seed, number, 3])
    snapshot, spec = wide_instance(seed + 1_000_000, number)
    tensors, spec = _with_trouble(rng, snapshot, spec)
    mixed = rng.random() < 0.15
    if mixed:
        exponents = rng.uniform(-WEIGHT_DECADES, WEIGHT_DECADES, len(tensors["inputs"]))
        tensors["sample_weight"] = (10.0**exponents).astype(np.float32)
    exact = any(asked.type in ("grid", "levels") for asked in spec.constraints)
    if not exact:
        tensors, spec = _decimal(rng, tensors, spec)
    backend = str(rng.choice(["scip", "highs"]))
    spec = spec.model_copy(
        update={
            "limits": spec.limits.model_copy(update={"time_s": time_s}),
            "solver": spec.solver.model_copy(update={"backend": backend}),
        }
    )
    twin = (Snapshot(task=snapshot.task, **tensors), spec)
    odd = not mixed and _own_unit(spec) and rng.random() < 0.15
    drawn = _in_units(twin, _units(rng, twin, mixed, odd), mixed or odd)
    return _by_columns(rng, drawn) if rng.random() < 0.3 else drawn


def _with_trouble(rng, snapshot, spec):
    """Equal samples, with other targets perhaps; columns of zeros or ones; a single sample; round numbers."""
    tensors = {name: values.copy() for name, values in snapshot.tensors().items()}
    asked = list(spec.constraints)
    if rng.random() < 0.3:
        one, other = rng.integers(len(tensors["inputs"]), size=2)
        tensors["inputs"][one] = tensors["inputs"][other]
        if rng.random() < 0.5 and "sample_weight" not in tensors:
            tensors["targets"][one] = tensors["targets"][other]
    choices = any(one.type in ("grid", "levels", "max_nonzero") for one in asked)
    if rng.random() < 0.25 and not choices:
        column = np.full((len(tensors["inputs"]), 1), rng.choice([0.0, 0.0, 1.0, -0.7]), dtype=np.float32)
        tensors["inputs"] = np.hstack([tensors["inputs"], column])
        tensors["weight"] = np.hstack([tensors["weight"], tensors["weight"][:, :1]])
    if rng.random() < 0.1:
        tensors = {
            name: values[:1] if name in ("inputs", "targets", "offset", "sample_weight", "group") else values
            for name, values in tensors.items()
        }
        asked = [one for one in asked if one.type not in ON_SAMPLES]
    if rng.random() < 0.2:
        tensors = {name: quarters(values) for name, values in tensors.items()}
        tensors = {name: v if v.dtype == np.int64 else v.astype(np.float32) for name, v in tensors.items()}
        if "sample_weight" in tensors:
            tensors["sample_weight"] = np.maximum(tensors["sample_weight"], 0.25)
    update = {"constraints": asked}
    if rng.random() < 0.3:
        radius = rng.uniform(0.2, 1.0, tensors["weight"].shape) * (rng.random(tensors["weight"].shape) < 0.7)
        tensors["radius"] = radius.astype(np.float32)
        update["radius"] = None
    return tensors, spec.model_copy(update=update)


def _decimal(rng, tensors, spec):
    """The rest of a decimal unit after the powers of two: a factor from 1 to 2, rounded to float32."""
    inputs, scores = rng.uniform(1.0, 2.0, 2)
    if _own_unit(spec):
        scores = 1.0
    of = {"inputs": inputs, "weight": scores / inputs, "radius": scores / inputs, "bias": scores, "offset": scores}
    if tensors["targets"].dtype != np.int64:
        of["targets"] = scores
    scaled = {n: (v * of[n]).astype(np.float32) if n in of else v for n, v in tensors.items()}
    update = {"margin": spec.margin * scores, "tolerance": spec.tolerance and spec.tolerance * scores}
    if spec.radius is not None:
        update |= {"radius": spec.radius * scores / inputs, "bias_radius": spec.radius * scores}
    return scaled, spec.model_copy(update=update)


def _own_unit(spec):
    """Whether scores have a unit already, so that a job in other units is another job."""
    return spec.objective in FIXED or any(one.type in ON_SAMPLES for one in spec.constraints)


def _units(rng, twin, mixed, odd):
    """Any units that the objective has no word on; of some jobs only the samples' weights have another one."""
    decade = np.log2(10)
    inputs, scores = (round(decade * rng.uniform(-DECADES, DECADES)) for _ in range(2))
    weights = round(decade * rng.choice([0, rng.uniform(-DECADES, DECADES), rng.uniform(-20, 20)]))
    snapshot, spec = twin
    if _own_unit(spec) and not odd:
        scores = 0
    if rng.random() < 0.2:
        inputs = scores
    return Units(inputs, scores, 0 if mixed or (snapshot.sample_weight is None and rng.random() < 0.5) else weights)


def _in_units(twin, units, mixed):
    snapshot, spec = twin
    tensors = snapshot.tensors()
    if units.weights:
        tensors["sample_weight"] = tensors.get("sample_weight", np.ones(snapshot.samples, dtype=np.float32))
    weight = units.scores - units.inputs
    of = {
        "inputs": units.inputs,
        "weight": weight,
        "radius": weight,
        "bias": units.scores,
        "bias_radius": units.scores,
        "offset": units.scores,
        "sample_weight": units.weights,
    }
    if snapshot.task == "regression":
        of["targets"] = units.scores
    scaled = {name: np.ldexp(v, of[name]).astype(np.float32) if name in of else v for name, v in tensors.items()}
    times = 2.0 ** ((units.weights if spec.objective in BY_SUM else 0) + _degree(spec) * units.scores)
    update = {
        "margin": spec.margin * 2.0**units.scores,
        "tolerance": None if spec.tolerance is None else spec.tolerance * 2.0**units.scores,
        "delta": spec.delta * 2.0**units.scores,
        "l2": spec.l2 * times / 2.0 ** (2 * weight),
        "constraints": [_asked(one, weight, times) for one in spec.constraints],
    }
    if spec.radius is not None:
        update["radius"] = spec.radius * 2.0**weight
        update["bias_radius"] = (spec.bias_radius or spec.radius) * 2.0**units.scores
    elif snapshot.radius is not None and snapshot.bias is not None and snapshot.bias_radius is None:
        half = (
            snapshot.radius.max(axis=-1)
            if snapshot.radius.ndim == 2
            else np.full(len(snapshot.weight), snapshot.radius.max())
        )
        scaled["bias_radius"] = np.ldexp(half, units.scores).astype(np.float32)
    job = (Snapshot(task=snapshot.task, **scaled), spec.model_copy(update=update))
    return Drawn(twin, job, times, mixed)


def _by_columns(rng, drawn):
    """Inputs in units of their own, column by column, where nothing compares the weights of different columns."""
    snapshot, spec = drawn.job
    if spec.l2 or any(one.type in ("grid", "levels", "movement_cost") for one in spec.constraints):
        return drawn
    shape = snapshot.weight.shape
    exponents = rng.integers(-20, 21, shape[1])
    radius = np.full(shape, spec.radius) if snapshot.radius is None else np.broadcast_to(snapshot.radius, shape)
    tensors = snapshot.tensors() | {
        "inputs": np.ldexp(snapshot.inputs, exponents),
        "weight": np.ldexp(snapshot.weight, -exponents),
        "radius": np.ldexp(radius.astype(np.float32), -exponents),
    }
    if snapshot.bias is not None:
        half = spec.bias_radius or spec.radius
        tensors["bias_radius"] = np.full(shape[0], half) if snapshot.radius is None else snapshot.bias_radius
    exact = all(v.dtype == np.int64 or np.isfinite(v).all() for v in tensors.values())
    if spec.radius is not None and (np.float32(spec.radius) != spec.radius or not exact):
        return drawn  # the box would be another one
    tensors = {name: v if v.dtype == np.int64 else v.astype(np.float32) for name, v in tensors.items()}
    spec = spec.model_copy(update={"radius": None, "bias_radius": None})
    return replace(drawn, job=(Snapshot(task=snapshot.task, **tensors), spec))


def _degree(spec):
    """With which power of the scores' unit the objective grows."""
    if spec.objective in (*FIXED, "ramp", "hinge", "outliers"):
        return 0
    return 2 if spec.objective in SQUARES else 1


def _asked(one, weight, times):
    """A constraint in other units of weights and values."""
    if one.type == "grid":
        return one.model_copy(update={"value": one.value * 2.0**weight})
    if one.type == "movement_cost":
        return one.model_copy(update={"value": one.value * times / 2.0**weight})
    if one.type == "levels":
        return one.model_copy(update={"levels": [level * 2.0**weight for level in one.levels]})
    return one


def faithful(drawn):
    """Whether the job's float32 numbers are the twin's, digit for digit."""
    for values in drawn.job[0].tensors().values():
        if values.dtype == np.float32 and ((np.abs(values) < LOW_PRECISION) & (values != 0)).any():
            return False
    return True


def compressed(snapshot, spec, power):
    """The same job with weights nearer to each other; its solution is one of the job, too."""
    w = snapshot.sample_weight.astype(np.float64)
    return replace(snapshot, sample_weight=((w / w.max()) ** power).astype(np.float32)), spec
