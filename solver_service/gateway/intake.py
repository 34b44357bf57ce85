"""Accepting snapshots and jobs: check, store, queue; the one path behind every route that submits."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from shared.batches import BatchSpec
from shared.contracts import InlineSnapshot, JobSpec, SnapshotInfo
from shared.errors import ContractError, ErrorCode, SpecError
from shared.snapshot import Snapshot, snapshot_id
from solver_service.gateway.problems import ProblemError
from solver_service.gateway.services import Services
from solver_service.milp.support import check_supported
from solver_service.rules import batches, jobs
from solver_service.rules.batches import Batch
from solver_service.store.operation import Mode

MAX_KEY_LENGTH = 255
DRAINING_RETRY_S = 30
MAX_SPEC_BYTES = 128 * 1024
"""Of a spec without its snapshot: it is part of a record that is kept for days, and read with every look at the job."""
LOADED_BYTES = 16
"""Of each element in a worker: as it came, in float32, and in the float64 that objectives are computed in."""


def store_snapshot(services: Services, owner: str, data: bytes) -> tuple[SnapshotInfo, bool]:
    """Check and store a snapshot: (what it is, whether it is new)."""
    return _store(services, owner, snapshot_id(data), data)


def _store(services: Services, owner: str, found: str, data: bytes) -> tuple[SnapshotInfo, bool]:
    snapshot = services.store.snapshots.outline_of(found, data)
    new = services.store.blobs.put_snapshot(owner, found, data)
    return SnapshotInfo(id=found, bytes=len(data), shapes=snapshot.shapes()), new


@dataclass(frozen=True)
class Brought:
    """The snapshot of a submission: its id, and its bytes where these came with it."""

    id: str
    data: bytes | None = None


def submit(
    services: Services,
    owner: str,
    spec: JobSpec,
    *,
    file: bytes | None = None,
    token: str | None,
    key: str = "",
    before: Callable[[str], None] = lambda _: None,
) -> jobs.Job:
    """Check a spec against its snapshot and queue the job, once per idempotency key.

    A repeated submission finds its job before anything else is asked, of the pool or of the snapshot. The snapshot may
    come as a `file` beside the spec. `before` hears the id of a new job while nobody else knows of it.
    """
    _check_token(token)
    brought, store = _brought(spec.snapshot, file), services.store
    once = None if token is None else (token, jobs.spec_digest(spec, brought.id))
    job = None if once is None else store.jobs.made_before(owner, *once)
    if job is None:
        _require_open(services)
        _keep(services, owner, brought)
        _check(services, owner, spec, brought.id)
        made = jobs.create(spec, snapshot=brought.id, owner=owner, now=store.jobs.now(), key=key, request=_request())
        before(made.id)
        job, _ = store.jobs.add(made, idempotency=once)
    _supersede_older(services, job.owner, [job.spec], job.id)
    return job


def submit_batch(
    services: Services, owner: str, batch: BatchSpec, *, file: bytes | None = None, token: str | None, key: str = ""
) -> Batch:
    """Check all specs against their snapshot, and queue all jobs or none, once per idempotency key, as `submit`."""
    _check_token(token)
    brought, store = _brought(batch.snapshot, file), services.store
    once = None if token is None else (token, batches.batch_digest(batch, brought.id))
    found = None if once is None else store.batches.made_before(owner, *once)
    if found is None:
        _require_open(services)
        _keep(services, owner, brought)
        _check_all(services, owner, batch, brought.id)
        store.limits.admit_rest(owner, len(batch.specs), token=token)
        names = {"snapshot": brought.id, "owner": owner, "key": key, "request": _request()}
        made, members = batches.create(batch.specs, now=store.jobs.now(), **names)
        found = store.batches.add(made, members, idempotency=once)
    _supersede_older(services, owner, batch.specs, found.jobs[0])
    return found


def _check_token(token: str | None) -> None:
    if token is not None and not 0 < len(token) <= MAX_KEY_LENGTH:
        raise SpecError(f"expected 1 to {MAX_KEY_LENGTH} characters", field="Idempotency-Key")


def _require_open(services: Services) -> None:
    if services.store.operation.mode() is Mode.DRAINING:
        detail = "this pool finishes what it has and accepts nothing more; try again later, or another pool"
        raise ProblemError(503, ErrorCode.DRAINING, detail, retry_after_s=DRAINING_RETRY_S)


def _check_all(services: Services, owner: str, batch: BatchSpec, reference: str) -> None:
    for number, spec in enumerate(batch.specs):
        with _named(f"specs[{number}]"):
            if spec.snapshot is not None:
                raise SpecError("leave it out: a batch has one snapshot for all its specs", field="snapshot")
            require_small(spec)
            _check(services, owner, spec, reference)


def _check(services: Services, owner: str, spec: JobSpec, reference: str) -> None:
    """Raise unless the spec fits its snapshot, and can be solved."""
    snapshot = _find_snapshot(services, owner, spec, reference)
    spec.check(snapshot)
    check_supported(snapshot, spec)
    check_loadable(snapshot, spec)


def _request() -> str:
    return str(structlog.contextvars.get_contextvars().get("request", ""))


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Say of what is wrong with one of several specs which of them it is."""
    try:
        yield
    except ContractError as error:
        raise SpecError(error.detail, field=f"{place}.{error.field}", code=error.code) from error


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


def _brought(snapshot: str | InlineSnapshot | None, file: bytes | None) -> Brought:
    """The snapshot that a submission names or brings, which is not stored yet."""
    if file is None and isinstance(snapshot, InlineSnapshot):
        file = snapshot.decode().to_bytes()
    if file is not None:
        return Brought(snapshot_id(file), file)
    if not isinstance(snapshot, str):
        raise SpecError("missing: name a snapshot's id, or send a small one inline", field="snapshot")
    return Brought(snapshot)


def _keep(services: Services, owner: str, brought: Brought) -> None:
    """Check and store a snapshot that came with its submission."""
    if brought.data is not None:
        _store(services, owner, brought.id, brought.data)


def _find_snapshot(services: Services, owner: str, spec: JobSpec, reference: str) -> Snapshot:
    """The snapshot, of which an outline is enough for every check but that of huge numbers."""
    keep_s = spec.ttl_s + services.settings.keep_blob_s
    snapshot = services.store.snapshots.outline(owner, reference, keep_s=keep_s)
    if snapshot is not None and not spec.goal.surely_finite(snapshot):  # rare: its numbers are huge
        snapshot = services.store.snapshots.get(owner, reference)
    if snapshot is None:
        detail = "no such snapshot; upload it with POST /v1/snapshots first"
        raise ProblemError(404, ErrorCode.NOT_FOUND, detail, field="snapshot")
    return snapshot


def _supersede_older(services: Services, owner: str, specs: Sequence[JobSpec], first: str) -> None:
    """Cancel what jobs supersede, which is older than the first of them.

    After a repeated submission, too: the first one may not have come so far.
    """
    for run in sorted({spec.run for spec in specs if spec.supersede and spec.run is not None}):
        for other in services.store.jobs.active(owner, run):
            if other < first:
                cancel(services, other)
