"""What an operator does to jobs: ends and deletes what a key has made, and wakes a pool that was paused."""

from dataclasses import dataclass
from functools import partial

import structlog

from shared.contracts import State
from solver_service.errors import ServiceError
from solver_service.rules import jobs
from solver_service.store import Store, keys
from solver_service.store.connection import names, translated

log = structlog.get_logger()

BATCH = 500


class SnapshotNeededError(ServiceError):
    """An unfinished job needs the snapshot; the message names it."""


@dataclass(frozen=True)
class Purged:
    """What was deleted of a key's things, and how many of its jobs a worker still has to end."""

    jobs: int
    snapshots: int
    still_running: int


def delete_snapshot(store: Store, owner: str, snapshot_id: str) -> bool:
    """Delete an owner's snapshot; whether it was there. SnapshotNeededError while an unfinished job names it."""
    for job in _unfinished(store, owner):
        if job.snapshot == snapshot_id:
            raise SnapshotNeededError(f"job {job.id} needs it; cancel that one first, or wait for its end")
    store.snapshots.forget(owner, snapshot_id)
    return store.quota.drop([keys.snapshot(owner, snapshot_id)]) > 0


def cancel_all(store: Store, owner: str) -> int:
    """Cancel an owner's unfinished jobs; how many there were. Workers tell the incumbents of those they are at."""
    unfinished = _unfinished(store, owner)
    for job in unfinished:
        store.jobs.update(job.id, partial(jobs.cancel, now=store.jobs.now()))
    return len(unfinished)


@translated
def purge(store: Store, owner: str) -> Purged:
    """Delete all that an owner has made but what workers are at just now, which is cancelled: ask again after that."""
    cancel_all(store, owner)
    running = {job.id for job in _unfinished(store, owner)}
    needed = {job.snapshot for job in _unfinished(store, owner)}
    found = names(store.redis.zrange(keys.jobs(owner), 0, -1))
    gone = [job_id for job_id in found if job_id not in running]
    for begin in range(0, len(gone), BATCH):
        batch = gone[begin : begin + BATCH]
        of_job = (keys.job, keys.result, keys.model, keys.log)
        store.quota.drop([name(job_id) for job_id in batch for name in of_job])
        store.redis.delete(
            *(keys.events(job_id) for job_id in batch),
            *(keys.incumbent(job_id) for job_id in batch),
            *(keys.model_refusal(job_id) for job_id in batch),
            *(keys.log_places(job_id) for job_id in batch),
        )
        store.redis.zrem(keys.jobs(owner), *batch)
    snapshots = [name for name in _named(store, keys.snapshot(owner, "*")) if name.rpartition(":")[2] not in needed]
    for name in snapshots:
        store.snapshots.forget(owner, name.rpartition(":")[2])
    dropped = store.quota.drop(snapshots)
    if not running:
        patterns = (keys.idempotency(owner, "*"), keys.jobs(owner, "*"), keys.active(owner, "*"))
        rest = [name for pattern in patterns for name in _named(store, pattern)]
        store.quota.drop(_named(store, keys.batch(owner, "*")))
        store.redis.delete(keys.jobs(owner), keys.unfinished(owner), keys.models_wanted(owner), *rest)
        store.apikeys.forget(owner)
    log.info("purged", owner=owner, jobs=len(gone), snapshots=dropped, still_running=len(running))
    return Purged(len(gone), dropped, len(running))


@translated
def wake(store: Store) -> int:
    """Send all queued jobs' messages again: workers that were asked while the pool was paused have dropped them."""
    ids = names(store.redis.zrange(keys.QUEUED, 0, -1))
    waiting = [job for job in store.jobs.get_many(ids) if job is not None and job.state is State.QUEUED]
    for job in waiting:
        store.jobs.send_again(job)
    return len(waiting)


@translated
def _unfinished(store: Store, owner: str) -> list[jobs.Job]:
    ids = sorted(names(store.redis.smembers(keys.unfinished(owner))))
    return [job for job in store.jobs.get_many(ids) if job is not None and not job.state.terminal]


def _named(store: Store, pattern: str) -> list[str]:
    """Keys by pattern: an owner's name is hexadecimal, so that it means nothing else in one."""
    return names(store.redis.scan_iter(match=pattern, count=1000))
