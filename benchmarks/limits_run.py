"""One random job of `benchmarks/limits.py`: its instance by number, a run by the clock, and where it was when late.

The instance is a function of (seed, number) alone, so that a job that overran is found again.
"""

import faulthandler
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shared.activations import Activation
from shared.constraints import ON_SAMPLES, ON_WEIGHTS
from shared.contracts import JobSpec
from shared.errors import SpecError
from shared.objectives import CLASSIFICATION, REGRESSION
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.core.control import Control
from solver_service.milp.core.solution import GAVE_UP
from solver_service.milp.solve import solve
from solver_service.milp.support import check_supported

OBJECTIVES = (*CLASSIFICATION, *REGRESSION)
MOST_COEFFICIENTS = 2e7
LARGEST = (50_000, 512, 10)
"""N, d and K of instance 0."""
CANCEL_S = 0.5
"""How long after a cancel a job may go on."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Instance:
    """A snapshot, what to do with it, and after how many seconds somebody cancels (None: nobody does)."""

    snapshot: Snapshot
    spec: JobSpec
    cancel_s: float | None


@dataclass(frozen=True)
class Run:
    """What became of one job: seconds late (negative: in time), where it was then, and what was not finite or broke."""

    number: int
    about: str
    limit_s: float
    cancel_s: float | None
    seconds: float = math.inf
    cpu_s: float = math.inf
    late_s: float = math.inf
    first_s: float | None = None
    status: str = "no answer"
    start: float | None = None
    final: float | None = None
    not_finite: list[str] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)


def allowance(limit_s: float) -> float:
    """The latest end of a job with this limit, seconds after it began."""
    return 1.02 * limit_s + 0.3


def instance(seed: int, number: int) -> Instance:
    """Job `number` of this seed: any objective, size, constraints and hidden block that this release takes."""
    rng = np.random.default_rng([seed, number])
    objective = str(rng.choice(OBJECTIVES))
    n, d, k = _sizes(rng) if number else LARGEST
    hidden = bool(number) and rng.random() < 0.3
    classes = objective in CLASSIFICATION
    snapshot, scale = _snapshot(rng, n, d, k if classes or not hidden else min(k, 4), classes=classes, hidden=hidden)
    limit_s = float(np.round(rng.uniform(0.3, 5.0), 2))
    fields: dict[str, Any] = {
        "objective": objective,
        "tolerance": 0.3 if objective == "outliers" else None,
        "radius": float(scale * 10 ** rng.uniform(-2, 0)),
        "bias_radius": float(scale) if rng.random() < 0.3 and snapshot.bias is not None else None,
        "tail_radius": 1.0 if snapshot.tail and rng.random() < 0.5 else 0.0,
        "limits": {"time_s": limit_s},
        "solver": {"seed": int(rng.integers(1000)), "backend": str(rng.choice(["scip", "highs"], p=[0.8, 0.2]))},
    }
    constraints = _constraints(rng, snapshot, fields["radius"]) if number and rng.random() < 0.5 else []
    cancel_s = float(rng.uniform(0.0, limit_s)) if rng.random() < 0.3 else None
    spec = JobSpec(**fields, constraints=constraints)
    try:
        check_supported(snapshot, spec)
    except SpecError:  # such as constraints of a hidden block: the same job without them
        spec = JobSpec(**fields)
    return Instance(snapshot, spec, cancel_s)


def run(seed: int, number: int) -> Run:
    """Solve one instance with a stopwatch; if it is late, say which line the solve was in at that moment."""
    case = instance(seed, number)
    limit_s = case.spec.limits.time_s
    due_s = allowance(limit_s) if case.cancel_s is None else min(allowance(limit_s), case.cancel_s + CANCEL_S)
    firsts: list[float] = []
    control = Control(lambda found: firsts.append(found.t_s))
    watch = threading.Timer(case.cancel_s, control.stop) if case.cancel_s is not None else None
    with tempfile.TemporaryFile("w+") as late:
        faulthandler.dump_traceback_later(due_s, file=late)
        began, cpu = time.perf_counter(), time.process_time()
        if watch:
            watch.start()
        solution = solve(case.snapshot, case.spec, control)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        faulthandler.cancel_dump_traceback_later()
        if watch:
            watch.cancel()
        late.seek(0)
        stack = _frames(late.read())
    result = solution.result.model_dump()
    numbers = {**result, "weight": solution.weight, "bias": solution.bias, "tail": dict(solution.tail)}
    return Run(
        number=number,
        about=describe(case),
        limit_s=limit_s,
        cancel_s=case.cancel_s,
        seconds=seconds,
        cpu_s=cpu_s,
        late_s=seconds - due_s,
        first_s=firsts[0] if firsts else None,
        status=str(result["status"]),
        start=result["objective"]["start"],
        final=result["objective"]["final"],
        not_finite=[*not_finite(numbers), *(note for note in result["notes"] if note.endswith(GAVE_UP))],
        stack=stack,
    )


def serve(connection: Connection, seed: int) -> None:
    """Answer numbers of jobs with their runs until the other end hangs up; a process does nothing else."""
    while True:
        try:
            number = connection.recv()
        except EOFError:
            os._exit(0)
        connection.send(run(seed, number))


def describe(case: Instance) -> str:
    """The job in one line: objective, N x d, the units of each layer, and what else makes it hard."""
    snapshot, spec = case.snapshot, case.spec
    units = [snapshot.weight.shape[0], *(layer.weight.shape[0] for layer in snapshot.tail)]
    layers = ">".join(str(count) for count in units)
    kinds = "+".join(f"{c.type}({c.value:.3g})" for c in spec.constraints)
    words = [spec.objective, f"{snapshot.samples}x{snapshot.weight.shape[1]}>{layers}", str(snapshot.activation)]
    words += [f"tail_radius {spec.tail_radius:g}"] if spec.tail_radius else []
    words += [f"radius {spec.radius:.3g}", spec.solver.backend, kinds]
    return " ".join(word for word in words if word)


def not_finite(value: Any, name: str = "") -> Iterator[str]:
    """The names of all numbers in there that are not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from not_finite(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from not_finite(item, f"{name}.{index}")
    elif isinstance(value, (float, np.ndarray)) and not np.isfinite(value).all():
        yield name


def _sizes(rng: np.random.Generator) -> tuple[int, int, int]:
    """N, d and K, log-uniform, of at most 2e7 coefficients N d K; half of all jobs have more than a million."""
    least = 1e6 if rng.random() < 0.5 else 1e3
    while True:
        n = int(10 ** rng.uniform(1.5, 4.7))
        d = int(2 ** rng.uniform(1, 11))
        k = int(2 ** rng.uniform(1, 4.4))
        if least < n * d * k <= MOST_COEFFICIENTS:
            return n, d, k


def _snapshot(
    rng: np.random.Generator, n: int, d: int, k: int, *, classes: bool, hidden: bool
) -> tuple[Snapshot, float]:
    """A noisy teacher's answers and a student near the teacher; also the size of a weight."""
    inputs = np.maximum(0.0, rng.normal(size=(n, d)) + rng.uniform(-0.5, 1.0)) * 10 ** rng.uniform(-1, 1)
    scale = 1.0 / (np.abs(inputs).mean() * math.sqrt(d) + 1e-12)
    widths = (
        [min(k, int(2 ** rng.uniform(1, 5))), *([int(rng.integers(2, 9))] * int(rng.integers(0, 2))), k]
        if hidden
        else [k]
    )
    kinds = [str(rng.choice(["relu", "leaky_relu:0.1", "hardtanh"])) for _ in widths[1:]] + ["identity"]
    layers: list[TailLayer] = []
    values = inputs
    for width, kind in zip(widths, kinds, strict=True):
        size = scale if not layers else 1.0 / math.sqrt(values.shape[1])
        weight, bias = rng.normal(scale=size, size=(width, values.shape[1])), rng.normal(scale=size, size=width)
        student = weight + rng.normal(scale=0.3 * size, size=weight.shape)
        layers.append(TailLayer(_float32(student), _float32(bias), Activation.parse(kind)))
        values = Activation.parse(kind)(values @ weight.T + bias)
    values = values + rng.normal(scale=0.3 * values.std() + 1e-9, size=values.shape)
    block = layers[0]
    extras: dict[str, Any] = {}
    if rng.random() < 0.2:
        extras["sample_weight"] = _float32(rng.integers(1, 5, n))
    if classes:
        extras["group"] = np.arange(n) % 2
    snapshot = Snapshot(
        task="classification" if classes else "regression",
        inputs=_float32(inputs),
        targets=values.argmax(axis=1) if classes else _float32(values),
        weight=block.weight,
        bias=block.bias if hidden or rng.random() < 0.8 else None,
        activation=block.activation,
        tail=tuple(layers[1:]),
        **extras,
    )
    return snapshot, float(scale)


def _constraints(rng: np.random.Generator, snapshot: Snapshot, radius: float) -> list[dict[str, Any]]:
    """One or two constraints, those on weights such that the box has room for them."""
    allowed = (*ON_SAMPLES, *ON_WEIGHTS) if snapshot.task == "classification" else ON_WEIGHTS
    weight = snapshot.weight.astype(np.float64)
    # The weight that is nearest to 0; its own sign is always within reach.
    unit, column = np.unravel_index(int(np.abs(weight).argmin()), weight.shape)
    here = {"classes": [int(unit)], "indices": [int(column)]}
    side = 1.0 if weight[unit, column] >= 0 else -1.0
    fixed = int((np.abs(weight) > radius).sum())
    levels = np.arange(weight.min() - radius, weight.max() + 2 * radius, 1.5 * radius)[:60]
    drawn: dict[str, dict[str, Any]] = {
        "min_accuracy": {"value": rng.uniform(0.3, 0.9)},
        "recall_floor": {"value": rng.uniform(0.1, 0.8)},
        "group_rate_gap": {"value": rng.uniform(0.0, 0.1)},
        "precision_floor": {"value": rng.uniform(0.2, 0.7)},
        "nonnegative": {"value": 0.0, **here} if side > 0 else {"value": 0.0, "indices": [int(column)]},
        "monotone": {"value": side, **here},
        "max_nonzero": {"value": float(rng.integers(fixed, weight.size + 1))},
        "grid": {"value": radius * rng.uniform(0.05, 0.5)},
        "levels": {"levels": levels.tolist(), "classes": [int(unit)]},
        "movement_cost": {"value": 10 ** rng.uniform(-3, 0)},
    }
    chosen = [str(kind) for kind in rng.choice(allowed, int(rng.integers(1, 3)), replace=False)]
    if {"grid", "levels"} <= set(chosen):
        chosen.remove("levels")  # a weight has one or the other
    return [{"type": kind, **drawn[kind]} for kind in chosen]


def _float32(values: Array | NDArray[np.int64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _frames(dump: str) -> list[str]:
    """The lines of our own code in a dump of all stacks, innermost first: module:line function."""
    frames = []
    for thread in dump.split("\n\n"):
        if "milp/solve.py" in thread.replace("\\", "/"):
            for line in thread.splitlines():
                if 'File "' in line:
                    file, _, rest = line.split('File "', 1)[1].partition('", line ')
                    frames.append(f"{'/'.join(Path(file).parts[-2:])}:{rest.replace(' in ', ' ')}")
    return frames[: next((i for i, frame in enumerate(frames) if frame.startswith("milp/solve.py")), None)]
