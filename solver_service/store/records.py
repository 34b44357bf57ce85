"""Job records as text: finite numbers alone go in, and whatever another release wrote comes out, or is set aside.

A record carries the version it was written with. Fields that this release does not know are ignored, and those that it
misses have defaults, so that a pool can be upgraded and rolled back with its jobs. What nobody can read is moved to
`gds:quarantine`, out of every index, where it stops nobody else.
"""

import json
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from pydantic import ValidationError

from shared.plain import is_utf8
from solver_service.errors import ServiceError
from solver_service.rules.jobs import Job
from solver_service.rules.numbers import finite
from solver_service.store import keys, turns
from solver_service.store.commit import Commit
from solver_service.store.connection import payload, translated

log = structlog.get_logger()

VERSION = 1


class NotFiniteError(ServiceError):
    """A record would hold a number that is not finite."""


def encode(job: Job) -> str:
    """Write a record; NotFiniteError if a number in it is not finite (its spec was checked when it came)."""
    for name in ("progress", "result", "feedback", "created", "queued_at", "started", "finished"):
        if not finite(getattr(job, name)):
            raise NotFiniteError(f"job {job.id}: {name} is not finite")
    return f'{{"version":{VERSION},{job.model_dump_json()[1:]}'


def decode(data: bytes | str) -> Job | None:
    """Read a record of any release, fields unknown to this one left out; None for what cannot be read."""
    try:
        return Job.model_validate_json(data, extra="ignore")
    except ValidationError:
        return None


@dataclass(frozen=True)
class Records:
    """All job records of one Redis, read one by one, so that a bad one is nobody else's trouble."""

    redis: redis.Redis
    commit: Commit

    @translated
    def raw(self, job_id: str) -> bytes | None:
        """A record's bytes as they are; what is there in another type than a record's is none."""
        return payload(self.redis.mget([keys.job(job_id)])[0])

    def read(self, job_id: str, data: bytes | None) -> Job | None:
        """Read a record that was found under this id; one that cannot be read is set aside, and there is none."""
        if data is None:
            return None
        job = decode(data)
        if job is None or job.id != job_id:
            self._set_aside(job_id, data)
            return None
        return job

    @translated
    def is_set_aside(self, job_id: str) -> bool:
        """Whether there was such a job, whose record could not be read."""
        return bool(self.redis.hexists(keys.QUARANTINE, job_id))

    @translated
    def readable_again(self) -> list[Job]:
        """Records that were set aside and that this release can read: those of a newer one, after a rollback."""
        found: dict[Any, Any] = self.redis.hgetall(keys.QUARANTINE)
        return [job for name, data in found.items() if (job := decode(data)) is not None and job.id.encode() == name]

    def _set_aside(self, job_id: str, data: bytes) -> None:
        """Move a record out of every index, together with what it was; does nothing if it has changed meanwhile."""
        known = _legible(data)
        changes = self.commit.changes()
        changes.hset(keys.QUARANTINE, job_id, data.decode(errors="replace"))
        changes.delete(keys.job(job_id))
        for index in (keys.QUEUED, keys.RUNNING, keys.EXPIRING, *map(keys.waiting, ("high", "normal", "low"))):
            changes.zrem(index, job_id)
        changes.hdel(keys.HOLDING, job_id)
        changes.lrem(keys.RECENT, 0, job_id)
        if (owner := known.get("owner")) is not None:
            turns.leave(changes, owner, job_id)
            changes.srem(keys.unfinished(owner), job_id)
            changes.zrem(keys.jobs(owner), job_id)
            if (run := known.get("run")) is not None:
                changes.srem(keys.active(owner, run), job_id)
                changes.zrem(keys.jobs(owner, run), job_id)
        changes.hincrbyfloat(keys.COUNTERS, "quarantined|", 1)
        if self.commit(changes, keys.job(job_id), data, owed=True):
            log.error("record set aside: it cannot be read", job=job_id, bytes=len(data), state=known.get("state"))


def _legible(data: bytes) -> dict[str, str]:
    """What can be told of a record that cannot be read: its owner, run and state, where they are text."""
    try:
        found: Any = json.loads(data)
        spec = found.get("spec")
        run = spec.get("run") if isinstance(spec, dict) else None
        parts = {"owner": found.get("owner"), "run": run, "state": found.get("state")}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {name: part for name, part in parts.items() if isinstance(part, str) and is_utf8(part)}
