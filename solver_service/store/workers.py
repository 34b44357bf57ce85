"""Heartbeats of solver workers: who is alive."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
from pydantic import ValidationError

from shared.contracts import WorkerInfo
from solver_service.store import keys
from solver_service.store.connection import is_text, names, payload, translated

FRESH_BEATS = 3
"""A worker that missed this many heartbeats counts as gone."""

# A full Redis takes it, too: its first write needs no memory.
_BEAT = """
redis.call('DEL', '')
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
"""


@dataclass(frozen=True)
class WorkerStore:
    """The workers known to one Redis, by an id of their own: two may have one name."""

    redis: redis.Redis
    heartbeat_s: float

    @translated
    def beat(self, name: str, *, host: str, pid: int, slots: int, worker_id: str | None = None) -> None:
        """Say that a worker is alive; without an id it is known by its name."""
        worker_id = worker_id or name
        seen = datetime.now(UTC).isoformat()
        info = {"name": name, "id": worker_id, "host": host, "pid": pid, "slots": slots, "seen": seen}
        life_ms = int(FRESH_BEATS * self.heartbeat_s * 1000)
        self.redis.eval(_BEAT, 2, keys.worker(worker_id), keys.WORKERS, json.dumps(info), life_ms, worker_id)

    @translated
    def leave(self, worker_id: str) -> None:
        """Say that a worker is going."""
        self.redis.delete(keys.worker(worker_id), keys.solved(worker_id))
        self.redis.zrem(keys.WORKERS, worker_id)

    @translated
    def alive(self) -> list[WorkerInfo]:
        """Workers with a fresh heartbeat, by id; `jobs` is left for the caller to fill."""
        members: list[Any] = list(self.redis.zrange(keys.WORKERS, 0, -1))
        if foreign := [member for member in members if not is_text(member)]:
            self.redis.zrem(keys.WORKERS, *foreign)
        known = names(members)
        if not known:
            return []
        beats = self.redis.mget([keys.worker(worker_id) for worker_id in known])
        solved = self.redis.mget([keys.solved(worker_id) for worker_id in known])
        found = []
        for worker_id, beat, count in zip(known, beats, solved, strict=True):
            info = _read(payload(beat), solved=payload(count))
            if info is None:
                self.leave(worker_id)
            else:
                found.append(info)
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    @translated
    def any_alive(self) -> bool:
        """Whether there is a worker with a fresh heartbeat; looks at no more of them than it has to."""
        known = names(name for name, _ in self.redis.zscan_iter(keys.WORKERS))
        batches = (known[begin : begin + 50] for begin in range(0, len(known), 50))
        return any(self.redis.exists(*map(keys.worker, batch)) for batch in batches)


def _read(beat: bytes | None, *, solved: bytes | None) -> WorkerInfo | None:
    """What a heartbeat says; one that cannot be read is none, and stops nobody else's."""
    try:
        return None if beat is None else WorkerInfo.model_validate({**json.loads(beat), "solved": int(solved or 0)})
    except (ValueError, TypeError, RecursionError, ValidationError):
        return None
