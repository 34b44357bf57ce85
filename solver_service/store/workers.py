"""Heartbeats of solver workers: who is alive."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from shared.contracts import WorkerInfo
from solver_service.store import keys
from solver_service.store.connection import names, translated

FRESH_BEATS = 3
"""A worker that missed this many heartbeats counts as gone."""


@dataclass(frozen=True)
class WorkerStore:
    """The workers known to one Redis."""

    redis: redis.Redis
    heartbeat_s: float

    @translated
    def beat(self, name: str, *, host: str, pid: int, slots: int) -> None:
        """Say that a worker is alive."""
        info = {"name": name, "host": host, "pid": pid, "slots": slots, "seen": datetime.now(UTC).isoformat()}
        with self.redis.pipeline() as pipe:
            pipe.set(keys.worker(name), json.dumps(info), px=int(FRESH_BEATS * self.heartbeat_s * 1000))
            pipe.zadd(keys.WORKERS, {name: 0})
            pipe.execute()

    @translated
    def leave(self, name: str) -> None:
        """Say that a worker is going."""
        self.redis.delete(keys.worker(name), keys.solved(name))
        self.redis.zrem(keys.WORKERS, name)

    @translated
    def alive(self) -> list[WorkerInfo]:
        """Workers with a fresh heartbeat, by name; `jobs` is left for the caller to fill."""
        known = names(self.redis.zrange(keys.WORKERS, 0, -1))
        if not known:
            return []
        beats = self.redis.mget([keys.worker(name) for name in known])
        solved = self.redis.mget([keys.solved(name) for name in known])
        found = []
        for name, beat, count in zip(known, beats, solved, strict=True):
            if beat is None:
                self.leave(name)
            else:
                found.append(WorkerInfo.model_validate({**json.loads(beat), "solved": int(count or 0)}))
        return found

    @translated
    def any_alive(self) -> bool:
        """Whether there is a worker with a fresh heartbeat; looks at no more of them than it has to."""
        known = names(name for name, _ in self.redis.zscan_iter(keys.WORKERS))
        batches = (known[begin : begin + 50] for begin in range(0, len(known), 50))
        return any(self.redis.exists(*map(keys.worker, batch)) for batch in batches)
