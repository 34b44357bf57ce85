"""Batches, as pure functions: jobs that were sent together, and which of their results is best among what."""

import hashlib
import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from shared.batches import BatchGroup, BatchJob, BatchSpec, BatchStatus
from shared.contracts import JobSpec, State
from shared.objectives import ObjectiveName
from solver_service.rules import jobs
from solver_service.rules.jobs import Job, new_id, utc
from solver_service.rules.numbers import Moment

PREFIX = "batch_"
NUMBERS: dict[str, tuple[str, ...]] = {
    "ramp": ("margin",),
    "hinge": ("margin",),
    "outliers": ("tolerance",),
    "log_loss": ("l2",),
    "huber": ("delta",),
    "quantile": ("quantile",),
    "trimmed_mse": ("trim",),
    "trimmed_mae": ("trim",),
}
"""The numbers of a spec that are part of what its objective means."""
Goal = tuple[ObjectiveName, tuple[tuple[str, float], ...]]


class Batch(BaseModel):
    """A batch as the service keeps it: which jobs it has, in the order of their specs; their records say the rest."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    snapshot: str
    created: Moment
    jobs: tuple[str, ...]


def create(
    specs: Sequence[JobSpec], *, snapshot: str, owner: str, now: float, key: str = "", request: str = ""
) -> tuple[Batch, list[Job]]:
    """Make a batch of queued jobs, whose ids sort as their specs do."""
    ids, batch_id = sorted(new_id(now) for _ in specs), f"{PREFIX}{new_id(now)}"
    made = [jobs.create(spec, snapshot=snapshot, owner=owner, now=now, key=key, request=request) for spec in specs]
    named = [job.model_copy(update={"id": job_id, "batch": batch_id}) for job, job_id in zip(made, ids, strict=True)]
    return Batch(id=batch_id, owner=owner, snapshot=snapshot, created=now, jobs=tuple(ids)), named


def batch_digest(batch: BatchSpec, snapshot: str) -> str:
    """Fingerprint of a submission, to compare two that carry the same idempotency key."""
    body = batch.model_copy(update={"snapshot": snapshot})
    return hashlib.sha256(body.model_dump_json().encode()).hexdigest()


def status_of(batch: Batch, found: Sequence[Job | None]) -> BatchStatus:
    """The public record, from those of its jobs, in their order (None: it has expired)."""
    known = [(number, job) for number, job in enumerate(found) if job is not None]
    groups: dict[Goal, list[tuple[int, Job]]] = {}
    for number, job in known:
        groups.setdefault(_goal(job.spec), []).append((number, job))
    counts = dict.fromkeys(State, 0)
    for _, job in known:
        counts[job.state] += 1
    return BatchStatus(
        id=batch.id,
        created=utc(batch.created),
        snapshot=batch.snapshot,
        ended=all(job.state.terminal for _, job in known),
        counts=counts,
        groups=[_group(goal, members) for goal, members in groups.items()],
    )


def _goal(spec: JobSpec) -> Goal:
    """What a job minimises: values of two jobs can be compared where this is the same."""
    numbers: dict[str, float] = {name: getattr(spec, name) for name in NUMBERS.get(spec.objective, ())}
    prices = [one.value for one in spec.constraints if one.type == "movement_cost"]
    if prices:
        numbers["movement_cost"] = math.fsum(prices)
    return spec.objective, tuple(sorted(numbers.items()))


def _rank(one: tuple[int, Job]) -> tuple[bool, bool, float, int]:
    """Weights that keep all constraints first, then by value; what has no result (yet) last, in the order of specs."""
    number, job = one
    if job.result is None:
        return True, True, math.inf, number
    return False, not job.result.feasible, job.result.objective.final, number


def _group(goal: Goal, members: Sequence[tuple[int, Job]]) -> BatchGroup:
    ranked = [_told(number, job) for number, job in sorted(members, key=_rank)]
    return BatchGroup(objective=goal[0], numbers=dict(goal[1]), jobs=ranked)


def _told(number: int, job: Job) -> BatchJob:
    names = () if job.result is None else ("status", "feasible", "improved", "objective")
    told = {name: getattr(job.result, name) for name in names}
    return BatchJob(id=job.id, number=number, state=job.state, error=job.error, **told)
