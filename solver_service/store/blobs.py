"""Snapshots, incumbents and results as bytes with a time to live."""

from dataclasses import dataclass

import redis

from solver_service.store import keys
from solver_service.store.connection import payload, translated


@dataclass(frozen=True)
class BlobStore:
    """All blobs of one Redis."""

    redis: redis.Redis
    keep_s: int

    @translated
    def put_snapshot(self, owner: str, snapshot_id: str, data: bytes) -> bool:
        """Store a snapshot for its owner; False when it was there already (it then lives longer)."""
        name = keys.snapshot(owner, snapshot_id)
        if self.redis.expire(name, self.keep_s):
            return False
        self.redis.set(name, data, ex=self.keep_s)
        return True

    @translated
    def snapshot(self, owner: str, snapshot_id: str) -> bytes | None:
        """Read an owner's snapshot."""
        return payload(self.redis.get(keys.snapshot(owner, snapshot_id)))

    @translated
    def has_snapshot(self, owner: str, snapshot_id: str) -> bool:
        """Whether the owner's snapshot is there."""
        return bool(self.redis.exists(keys.snapshot(owner, snapshot_id)))

    @translated
    def keep_snapshot(self, owner: str, snapshot_id: str, seconds: float) -> None:
        """Let a snapshot live at least so long, because a job needs it."""
        name = keys.snapshot(owner, snapshot_id)
        if self.redis.ttl(name) < seconds:
            self.redis.expire(name, int(seconds))

    @translated
    def put_incumbent(self, job_id: str, data: bytes) -> None:
        """Keep the best weights so far, for the job's next attempt."""
        self.redis.set(keys.incumbent(job_id), data, ex=self.keep_s)

    @translated
    def incumbent(self, job_id: str) -> bytes | None:
        """Read the best weights of an earlier attempt."""
        return payload(self.redis.get(keys.incumbent(job_id)))

    @translated
    def result(self, job_id: str) -> bytes | None:
        """Read a finished job's result file."""
        return payload(self.redis.get(keys.result(job_id)))
