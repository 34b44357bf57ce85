"""Accepting snapshots and jobs: check, store, queue; the one path behind every route that submits."""

from functools import partial

import structlog

from shared.contracts import InlineSnapshot, JobSpec, SnapshotInfo
from shared.errors import ErrorCode, SpecError
from shared.snapshot import Snapshot, snapshot_id
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.services import Services
from solver_service.milp.support import check_supported
from solver_service.rules import jobs
from solver_service.store.operation import Mode

MAX_KEY_LENGTH = 255
DRAINING_RETRY_S = 30
MAX_SPEC_BYTES = 128 * 1024
"""Of a spec without its snapshot: it is part of a record that is kept for days, and read with every look at the job."""
LOADED_BYTES = 16
"""Of each element in a worker: as it came, in float32, and in the float64 that objectives are computed in."""


def store_snapshot(services: Services, owner: str, data: bytes) -> tuple[SnapshotInfo, bool]:
    """Check and store a snapshot: (what it is, whether it is new)."""
    found = snapshot_id(data)
    snapshot = services.store.snapshots.outline_of(found, data)
    new = services.store.blobs.put_snapshot(owner, found, data)
    return SnapshotInfo(id=found, bytes=len(data), shapes=snapshot.shapes()), new


def submit(services: Services, owner: str, spec: JobSpec, *, token: str | None, key: str = "") -> jobs.Job:
    """Check a spec against its snapshot and queue the job, once per idempotency key."""
    if token is not None and not 0 < len(token) <= MAX_KEY_LENGTH:
        raise SpecError(f"expected 1 to {MAX_KEY_LENGTH} characters", field="Idempotency-Key")
    if services.store.operation.mode() is Mode.DRAINING:
        detail = "this pool finishes what it has and accepts nothing more; try again later, or another pool"
        raise ProblemError(503, ErrorCode.DRAINING, detail, retry_after_s=DRAINING_RETRY_S)
    snapshot, reference = _find_snapshot(services, owner, spec)
    spec.check(snapshot)
    check_supported(snapshot, spec)
    check_loadable(snapshot, spec)
    store = services.store
    request = structlog.contextvars.get_contextvars().get("request", "")
    made = jobs.create(spec, snapshot=reference, owner=owner, now=store.jobs.now(), key=key, request=request)
    once = None if token is None else (token, jobs.spec_digest(spec, reference))
    job, _ = store.jobs.add(made, idempotency=once)
    _supersede_older(services, job)  # a repeated submission, too: the first one may not have come so far
    return job


def require_small(spec: JobSpec) -> None:
    """Raise SpecError for a spec that is too long to keep; what came in few bytes need not be looked at."""
    size = len(spec.model_copy(update={"snapshot": None}).model_dump_json())
    if size > MAX_SPEC_BYTES:
        detail = f"{size:,} bytes without the snapshot, at most {MAX_SPEC_BYTES:,} are kept; name fewer indices or tags"
        raise SpecError(detail, field="spec", code=ErrorCode.TOO_LARGE)


def check_loadable(snapshot: Snapshot, spec: JobSpec) -> None:
    """Refuse a job whose snapshot alone is over its memory limit; a model that is too large gets heuristics instead."""
    elements = sum(array.size for array in snapshot.tensors().values())
    needed_mb = LOADED_BYTES * elements / 1e6
    if needed_mb > spec.limits.memory_mb:
        detail = f"the snapshot alone takes about {needed_mb:,.0f} MB to load; allow more, or send fewer samples"
        raise SpecError(detail, field="limits.memory_mb")


def cancel(services: Services, job_id: str) -> jobs.Job | None:
    """Cancel a job; None when it had already ended or was being cancelled."""
    now = services.store.jobs.now()
    return services.store.jobs.update(job_id, partial(jobs.cancel, now=now))


def _find_snapshot(services: Services, owner: str, spec: JobSpec) -> tuple[Snapshot, str]:
    """The snapshot, of which an outline is enough for every check but that of huge numbers, and its id."""
    if spec.snapshot is None:
        raise SpecError("missing: name a snapshot's id, or send a small one inline", field="snapshot")
    reference = spec.snapshot
    if isinstance(reference, InlineSnapshot):
        info, _ = store_snapshot(services, owner, reference.decode().to_bytes())
        reference = info.id
    keep_s = spec.ttl_s + services.settings.keep_blob_s
    snapshot = services.store.snapshots.outline(owner, reference, keep_s=keep_s)
    if snapshot is not None and not spec.goal.surely_finite(snapshot):  # rare: its numbers are huge
        snapshot = services.store.snapshots.get(owner, reference)
    if snapshot is None:
        detail = "no such snapshot; upload it with POST /v1/snapshots first"
        raise ProblemError(404, ErrorCode.NOT_FOUND, detail, field="snapshot")
    return snapshot, reference


def _supersede_older(services: Services, job: jobs.Job) -> None:
    if job.spec.supersede and job.spec.run is not None:
        for other in services.store.jobs.active(job.owner, job.spec.run):
            if other < job.id:
                cancel(services, other)
