"""What a change of a job adds to the pool's counters: pure, and applied by the store together with the change.

So the counters live in Redis, a change is counted once however many gateways and workers there are, and whichever
gateway is asked for /metrics shows them all. A counter's name is `metric|label`, a histogram's field
`metric:le:BOUND|label`, beside `metric:sum|label`.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

from shared.contracts import JobResult, State
from solver_service.rules.jobs import Job
from solver_service.rules.numbers import clamped

SECONDS = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)
STEPS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)

HISTOGRAMS = {
    "queued_seconds": SECONDS,
    "build_seconds": SECONDS,
    "solve_seconds": SECONDS,
    "improvement": SHARES,
    "staleness_steps": STEPS,
}

Adds = defaultdict[str, float]


def counted(before: Job | None, after: Job) -> Mapping[str, float]:
    """What to add to which counter when a job changes from one record to the next."""
    adds: Adds = defaultdict(float)
    if before is None:
        adds[f"submitted|{after.spec.priority}"] += 1
        return adds
    adds["attempts|"] += after.attempt - before.attempt
    adds["lost|"] += after.lost - before.lost
    if after.state.terminal and not before.state.terminal:
        adds[f"finished|{after.state.value}"] += 1
        if after.result is not None and after.state in (State.SUCCEEDED, State.CANCELLED):
            _count_result(adds, after.result)
    if after.feedback is not None and before.feedback is None:
        adds[f"feedback|{'accepted' if after.feedback.accepted else 'declined'}"] += 1
        if after.feedback.staleness_steps is not None:
            _observe(adds, "staleness_steps", "", after.feedback.staleness_steps)
    return {name: amount for name, value in adds.items() if (amount := clamped(value))}


def _count_result(adds: Adds, result: JobResult) -> None:
    timings, objective = result.timings, result.objective
    _observe(adds, "queued_seconds", "", timings.queued_s)
    _observe(adds, "build_seconds", result.backend.name, timings.build_s)
    _observe(adds, "solve_seconds", result.backend.name, timings.solve_s)
    gained = max(0.0, objective.start - objective.final)
    if objective.start > 0:
        _observe(adds, "improvement", objective.name, gained / objective.start)
    adds[f"gained|{objective.name}"] += gained
    adds[f"solver_seconds|{objective.name}"] += timings.total_s


def _observe(adds: Adds, metric: str, label: str, value: float) -> None:
    value = clamped(value)
    bound = next((bound for bound in HISTOGRAMS[metric] if value <= bound), math.inf)
    adds[f"{metric}:le:{bound:g}|{label}"] += 1
    adds[f"{metric}:sum|{label}"] += value
