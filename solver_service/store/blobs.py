"""Snapshots, incumbents and results as bytes with a time to live."""

from dataclasses import dataclass

import redis

from solver_service.store import keys
from solver_service.store.connection import payload, translated

SPARE_S = 600
"""A longer life is given with this much to spare, so that the next job on the same snapshot need not ask for it."""


@dataclass(frozen=True)
class BlobStore:
    """All blobs of one Redis."""

    redis: redis.Redis
    keep_s: int

    @translated
    def put_snapshot(self, owner: str, snapshot_id: str, data: bytes) -> bool:
        """Store a snapshot for its owner; False when it was there already (it then lives longer)."""
        name = keys.snapshot(owner, snapshot_id)
        left = self.redis.ttl(name)
        if left >= 0:  # a job may need it for longer already
            self.redis.expire(name, max(int(left), self.keep_s))
            return False
        self.redis.set(name, data, ex=self.keep_s)
        return True

    @translated
    def snapshot(self, owner: str, snapshot_id: str, *, keep_s: float = 0.0) -> bytes | None:
        """Read an owner's snapshot; it then lives at least so long, because a job needs it."""
        name = keys.snapshot(owner, snapshot_id)
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.get(name)
            pipe.ttl(name)
            data, left = pipe.execute()
        if data is not None and left < keep_s:
            self.redis.expire(name, int(keep_s) + SPARE_S)
        return payload(data)

    @translated
    def has_snapshot(self, owner: str, snapshot_id: str) -> bool:
        """Whether the owner's snapshot is there."""
        return bool(self.redis.exists(keys.snapshot(owner, snapshot_id)))

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
