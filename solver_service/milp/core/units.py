"""A job in other units: so near to 1 that every absolute tolerance of a solver means what it should.

Inputs, scores (with targets, margins and biases) and sample weights are multiplied by powers of two, which float32 and
float64 follow digit for digit. With inputs times 2^i and scores times 2^o the layer's weights and their box are times
2^(o - i), those of a last layer behind it times 2^o; a value is times 2^v. What comes out is taken back the same way.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shared.constraints import ON_SAMPLES
from shared.contracts import Constraint, Incumbent, JobResult, JobSpec
from shared.objectives import WORST, Objective, outputs
from shared.snapshot import FloatArray, Snapshot, regression_targets
from solver_service.milp.core.control import IncumbentFound
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.solution import Solution

COMFORT = 3
"""Scores and weights of samples from 2^-3 to 2^3 are as good as 1, and stay."""
INPUTS_COMFORT = 10
"""The same for inputs, which solvers only see in units of the box; large tensors are not copied for nothing."""
LOOKED_AT = 1000
"""About as many samples say how large errors are."""
FINEST = 20
"""Weights whose digits go no deeper than 2^-20 of the largest become whole numbers, and counts whole values."""
MOST_PRICE = 1e12
"""A price beyond it is lowered to it: solvers take 1e20 for infinite, and at this one nothing moves, either."""
HOMOGENEOUS = ("identity", "relu", "leaky_relu")
"""Activations through which a unit of scores can be moved."""
BY_SUM = ("zero_one", "ramp", "hinge", "outliers")
OWN_UNIT = ("zero_one", "log_loss", *WORST)
"""Objectives whose scores have a unit already: the margin 1e-4, or the exponential's."""
SQUARES = ("mse", "trimmed_mse", "huber")


@dataclass(frozen=True)
class Units:
    """Exponents of two by which inputs, scores and sample weights are multiplied, and values, which follow."""

    inputs: int = 0
    scores: int = 0
    samples: int = 0
    values: int = 0

    @property
    def plain(self) -> bool:
        """Whether nothing changes."""
        return not (self.inputs or self.scores or self.samples)


def units_of(snapshot: Snapshot, spec: JobSpec) -> Units:
    """The units in which a job's numbers are near to 1; plain ones where they are so, or where digits would be lost."""
    inputs = -_exponent(_largest(snapshot.inputs), INPUTS_COMFORT)
    scores = -_exponent(_size_of_scores(snapshot, spec)) if _scores_are_free(snapshot, spec) else 0
    samples = _of_samples(snapshot.sample_weight)
    for found in (Units(inputs, scores, samples), Units(0, 0, samples), Units(inputs, scores), Units()):
        units = replace(found, values=_of_values(found, spec.goal))
        if units.plain or _keeps_digits(snapshot, units):
            return units
    return Units()


def scaled(snapshot: Snapshot, spec: JobSpec, units: Units) -> tuple[Snapshot, JobSpec]:
    """The same job in these units."""
    exponents = _exponents(snapshot, units)
    tail = snapshot.tail
    if tail and units.scores:
        last = tail[-1]
        parts = {name: _times(getattr(last, name), units.scores) for name in ("weight", "bias", "offset")}
        tail = (*tail[:-1], replace(last, **parts))
    tensors = {name: _times(getattr(snapshot, name), exponent) for name, exponent in exponents.items()}
    if snapshot.radius is not None and snapshot.bias is not None and snapshot.bias_radius is None:
        rows = np.broadcast_to(snapshot.radius, snapshot.weight.shape)
        tensors["bias_radius"] = _times(np.ascontiguousarray(rows.max(axis=1)), exponents["bias"])
    return replace(snapshot, tail=tail, **tensors), _spec(snapshot, spec, units)


def taken_back(moved: Moved, units: Units, *, tail: int) -> Moved:
    """Weights in the job's own units, from those in others; `tail` layers follow the block."""
    block, last = (0, -units.scores) if tail else (-units.scores, 0)
    tails = {
        name: _times(values, last) if name.startswith(f"tail.{tail - 1}.") else values
        for name, values in moved.tail.items()
    }
    weight = _times(moved.weight, block + units.inputs)
    return Moved(weight, _times(moved.bias, block), tails)


def brought(moved: Moved, units: Units, *, tail: int) -> Moved:
    """Weights in other units, from those in the job's own."""
    return taken_back(moved, Units(-units.inputs, -units.scores), tail=tail)


def incumbent_back(found: IncumbentFound, units: Units, *, tail: int) -> IncumbentFound:
    """An incumbent in the job's own units."""
    return replace(
        found,
        objective=value_back(found.objective, units),
        bound=value_back(found.bound, units),
        moved=taken_back(found.moved, units, tail=tail),
    )


def solution_back(solution: Solution, units: Units, *, tail: int) -> Solution:
    """A solution in the job's own units."""
    moved = taken_back(solution.moved, units, tail=tail)
    return Solution(_result_back(solution.result, units), moved.weight, moved.bias, moved.tail)


def _result_back(result: JobResult, units: Units) -> JobResult:
    report = result.objective
    values = {name: value_back(getattr(report, name), units) for name in ("start", "final", "bound")}
    incumbents = [
        Incumbent(t_s=one.t_s, objective=value_back(one.objective, units), bound=value_back(one.bound, units))
        for one in result.incumbents
    ]
    return result.model_copy(
        update={
            "objective": report.model_copy(update=values),
            "incumbents": incumbents,
            "suspects": [
                one.model_copy(update={"margin": _shifted(one.margin, -units.scores)}) for one in result.suspects
            ],
        }
    )


def value_back(value: float, units: Units) -> float:
    """A value of the objective in the job's own units."""
    return _shifted(value, -units.values)


def _exponents(snapshot: Snapshot, units: Units) -> dict[str, int]:
    """By which power of two each tensor of a snapshot is multiplied."""
    block = 0 if snapshot.tail else units.scores
    found = {
        "inputs": units.inputs,
        "weight": block - units.inputs,
        "radius": block - units.inputs,
        "bias": block,
        "bias_radius": block,
        "offset": block,
        "sample_weight": units.samples,
    }
    return found | ({"targets": units.scores} if snapshot.task == "regression" else {})


def _spec(snapshot: Snapshot, spec: JobSpec, units: Units) -> JobSpec:
    block = 0 if snapshot.tail else units.scores
    weight = block - units.inputs
    tail_radius = list(spec.tail_radii(len(snapshot.tail)))
    if tail_radius:
        tail_radius[-1] = _shifted(tail_radius[-1], units.scores)
    update: dict[str, Any] = {
        "margin": _shifted(spec.margin, units.scores),
        "delta": _shifted(spec.delta, units.scores),
        "tolerance": None if spec.tolerance is None else _shifted(spec.tolerance, units.scores),
        "l2": _shifted(spec.l2, units.values - 2 * weight),
        "constraints": [_constraint(one, weight, units.values) for one in spec.constraints],
        "tail_radius": tail_radius if tail_radius else spec.tail_radius,
    }
    if spec.radius is not None:
        update["radius"] = _shifted(spec.radius, weight)
        update["bias_radius"] = _shifted(spec.bias_radius or spec.radius, block)
    return spec.model_copy(update=update)


def _constraint(one: Constraint, weight: int, values: int) -> Constraint:
    match one.type:
        case "grid":
            return one.model_copy(update={"value": _shifted(one.value, weight)})
        case "movement_cost":
            return one.model_copy(update={"value": min(_shifted(one.value, values - weight), MOST_PRICE)})
        case "levels":
            return one.model_copy(update={"levels": [_shifted(level, weight) for level in one.levels or ()]})
    return one


def _scores_are_free(snapshot: Snapshot, spec: JobSpec) -> bool:
    """Whether scores can have any unit: nothing speaks of them in absolute terms."""
    if spec.objective in OWN_UNIT or any(one.type in ON_SAMPLES for one in spec.constraints):
        return False
    last = snapshot.tail[-1].activation if snapshot.tail else snapshot.activation
    return str(last).split(":")[0] in HOMOGENEOUS and (bool(snapshot.tail) or snapshot.is_final_identity)


def _size_of_scores(snapshot: Snapshot, spec: JobSpec) -> float:
    """What scores are to be compared with: the margin, the tolerance, or what errors there are at the start."""
    if snapshot.task != "regression":
        return spec.margin
    if spec.objective == "outliers" and spec.tolerance:
        return spec.tolerance
    some = slice(None, None, max(1, snapshot.samples // LOOKED_AT))
    few = replace(
        snapshot,
        inputs=snapshot.inputs[some],
        targets=snapshot.targets[some],
        offset=None if snapshot.offset is None else snapshot.offset[some],
        sample_weight=None,
        group=None,
        tail=tuple(
            layer if layer.offset is None else replace(layer, offset=layer.offset[some]) for layer in snapshot.tail
        ),
    )
    error = regression_targets(few) - outputs(few, few.weight, few.bias)
    return float(np.abs(error).max()) or _largest(few.targets)


def _of_samples(weights: FloatArray | None) -> int:
    """The exponent that brings weights to about 1; weights of few digits become whole numbers."""
    if weights is None or _exponent(_largest(weights)) == 0:
        return 0
    top = math.frexp(_largest(weights))[1]
    digits = np.ldexp(weights.astype(np.float64), FINEST - top)
    if (digits != np.round(digits)).any():
        return -top
    coarsest = next(k for k in range(FINEST, -1, -1) if (np.ldexp(digits, -k) == np.round(np.ldexp(digits, -k))).all())
    return FINEST - top - coarsest


def _of_values(units: Units, goal: Objective) -> int:
    """The exponent of a job's values: a mean does not grow with the weights."""
    if goal.name in BY_SUM:
        return units.samples
    if goal.name in OWN_UNIT:
        return 0
    return (2 if goal.name in SQUARES else 1) * units.scores


def _exponent(size: float, comfort: int = COMFORT) -> int:
    """The power of two of a size, 0 where it is none or as good as 1."""
    exponent = math.frexp(size)[1] if size > 0 and math.isfinite(size) else 0
    return exponent if abs(exponent) > comfort else 0


def _largest(array: np.ndarray[Any, Any]) -> float:
    return max(abs(float(array.max())), abs(float(array.min())))


def _keeps_digits(snapshot: Snapshot, units: Units) -> bool:
    """Whether float32 holds every number in these units as well as in its own."""
    arrays = [(getattr(snapshot, name), exponent) for name, exponent in _exponents(snapshot, units).items()]
    if snapshot.tail:
        arrays += [(getattr(snapshot.tail[-1], name), units.scores) for name in ("weight", "bias", "offset")]
    for array, exponent in arrays:
        if array is not None and exponent:
            there = np.asarray(_times(array, exponent))
            if not (np.isfinite(there).all() and (_times(there, -exponent) == array).all()):
                return False
    return True


def _shifted(value: float, exponent: int) -> float:
    """A number times a power of two; what has no place in float64 becomes the largest or smallest that has."""
    if value == 0 or not math.isfinite(value):
        return value
    try:
        return math.ldexp(value, exponent) or math.copysign(sys.float_info.min, value)
    except OverflowError:
        return math.copysign(sys.float_info.max, value)


def _times(array: Any, exponent: int) -> Any:
    """An array (or None) times a power of two, in float32."""
    if array is None or not exponent:
        return array
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(array, exponent).astype(np.float32)
