"""Snapshots, incumbents and results as bytes with a time to live."""

from collections.abc import Callable
from dataclasses import dataclass

import redis

from solver_service.store import keys
from solver_service.store.connection import translated
from solver_service.store.pieces import PIECE_BYTES, hand_over, whole
from solver_service.store.quota import Quota, count

MISSING = -2
"""What Redis answers when it is asked for the time to live of a key that is not there."""

FIRST_BYTES = 64 * 1024
"""So much of a blob comes with its size."""
SPARE_S = 600
"""A longer life is given with this much to spare, so that the next job on the same snapshot need not ask for it."""

_PUT_INCUMBENT = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if KEYS[3] ~= '' then
  redis.call('RENAME', KEYS[3], KEYS[2])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
else
  redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
end
return 1
"""


@dataclass(frozen=True)
class BlobStore:
    """All blobs of one Redis."""

    redis: redis.Redis
    keep_s: int
    quota: Quota

    @translated
    def put_snapshot(self, owner: str, snapshot_id: str, data: bytes) -> bool:
        """Store a snapshot for its owner; False when it was there already (it then lives longer).

        LimitReachedError when it does not fit what the owner, or all together, may keep.
        """
        name = keys.snapshot(owner, snapshot_id)
        if self._prolong(name, self.keep_s):
            return False
        self.quota.require_room(owner, len(data))
        arrived = hand_over(self.redis, data)
        with self.redis.pipeline() as pipe:
            try:
                pipe.watch(name)  # type: ignore[no-untyped-call]
                if new := not pipe.exists(name):
                    pipe.multi()
                    pipe.rename(arrived, name)
                    pipe.expire(name, self.keep_s)
                    count(pipe, name, owner=owner, size=len(data), ends=self.quota.in_seconds(self.keep_s))
                    pipe.execute()
            except redis.WatchError:  # the same bytes came twice at once: the other one has stored them
                new = False
        if not new:
            self.redis.delete(arrived)
        return new

    def _prolong(self, name: str, seconds: float) -> bool:
        """Let a blob live at least so long; False when there is none."""
        left = self.redis.ttl(name)
        if left < seconds and self.redis.expire(name, int(seconds)):
            self.redis.zadd(keys.BLOB_ENDS, {name: self.quota.in_seconds(seconds)}, xx=True)
        return left != MISSING

    @translated
    def prolong(self, owner: str, snapshot_id: str, keep_s: float) -> float | None:
        """Let an owner's snapshot live at least so long: for how long it lives now; None when there is none."""
        name = keys.snapshot(owner, snapshot_id)
        left = self.redis.ttl(name)
        if left < keep_s and self._prolong(name, keep_s + SPARE_S):
            left = int(keep_s + SPARE_S)
        return None if left == MISSING else float(left)

    @translated
    def snapshot(self, owner: str, snapshot_id: str) -> bytes | None:
        """Read an owner's snapshot."""
        return whole(self.redis, keys.snapshot(owner, snapshot_id))

    def reader(self, owner: str, snapshot_id: str) -> tuple[int, Callable[[int, int], bytes]]:
        """The size of an owner's snapshot, 0 when there is none, and what reads it piece by piece."""
        return self._reader(keys.snapshot(owner, snapshot_id))

    def result_reader(self, job_id: str) -> tuple[int, Callable[[int, int], bytes]]:
        """The same for a finished job's result file."""
        return self._reader(keys.result(job_id))

    def model_reader(self, job_id: str) -> tuple[int, Callable[[int, int], bytes]]:
        """The same for a job's model."""
        return self._reader(keys.model(job_id))

    def log_reader(self, job_id: str) -> tuple[int, Callable[[int, int], bytes]]:
        """The same for a job's log."""
        return self._reader(keys.log(job_id))

    @translated
    def _reader(self, name: str) -> tuple[int, Callable[[int, int], bytes]]:
        """Most blobs are small: one round trip brings the size and the first piece, and often there is no other."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.strlen(name)
            pipe.getrange(name, 0, FIRST_BYTES - 1)
            size, first = pipe.execute()

        @translated
        def read(begin: int, end: int) -> bytes:
            if min(end, size) <= len(first):
                return bytes(first[begin:end])
            return bytes(self.redis.getrange(name, begin, end - 1))  # type: ignore[arg-type]

        return int(size), read

    @translated
    def has_snapshot(self, owner: str, snapshot_id: str) -> bool:
        """Whether the owner's snapshot is there."""
        return bool(self.redis.exists(keys.snapshot(owner, snapshot_id)))

    @translated
    def put_incumbent(self, job_id: str, attempt: int, data: bytes) -> bool:
        """Keep the best weights so far, for the job's next attempt; False when this one does not hold it any more."""
        arrived = hand_over(self.redis, data) if len(data) > PIECE_BYTES else ""
        names = keys.HOLDING, keys.incumbent(job_id), arrived
        told = job_id, attempt, b"" if arrived else data, self.keep_s
        kept = bool(self.redis.eval(_PUT_INCUMBENT, 3, *names, *told))
        if arrived and not kept:
            self.redis.delete(arrived)
        return kept

    @translated
    def incumbent(self, job_id: str) -> bytes | None:
        """Read the best weights of an earlier attempt."""
        return whole(self.redis, keys.incumbent(job_id))

    @translated
    def result(self, job_id: str) -> bytes | None:
        """Read a finished job's result file."""
        return whole(self.redis, keys.result(job_id))
