"""Job records in Redis: every change is a pure transition, written by compare-and-set together with its indexes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import redis
from redis.client import Pipeline

from shared.contracts import Priority, State
from solver_service.queue import Messages
from solver_service.rules.history import happenings
from solver_service.rules.jobs import Job, patience_ends
from solver_service.rules.metrics import counted
from solver_service.store import events, keys
from solver_service.store.clock import Clock
from solver_service.store.commit import Blob, Commit, NoRoomError, Room
from solver_service.store.connection import names, payload, translated
from solver_service.store.quota import RECORD_BYTES, count

PAGE = 100
MAX_PAGES_A_CALL = 10
RECENT = 50
"""So many ended jobs are listed for whoever looks at the pool."""

PRIORITIES: tuple[Priority, ...] = get_args(Priority)

Transition = Callable[[Job], Job | None]


class IdempotencyMismatchError(ValueError):
    """The same idempotency key came with another body."""


class QueueFullError(RuntimeError):
    """As many jobs are queued as may be."""


@dataclass(frozen=True)
class JobStore:
    """All job records of one Redis."""

    redis: redis.Redis
    clock: Clock
    commit: Commit
    messages: Messages
    keep_record_s: int
    keep_blob_s: int
    lease_s: float
    max_queued: int

    @translated
    def add(self, job: Job, *, idempotency: tuple[str, str] | None = None) -> tuple[Job, bool]:
        """Store and send a new job, or find the one that (key, body digest) already made: (job, whether it is new).

        Raises QueueFullError, and IdempotencyMismatchError for the same key with another body.
        """
        try:
            if idempotency is not None:
                return self._add_once(job, *idempotency)
            self.commit(self._as_new(job), keys.job(job.id), None, room=self._room)
        except NoRoomError:
            raise QueueFullError(f"{self.max_queued} jobs are queued") from None
        return job, True

    def _add_once(self, job: Job, token: str, digest: str) -> tuple[Job, bool]:
        name = keys.idempotency(job.owner, token)
        while True:
            found = payload(self.redis.get(name))
            if found is not None:
                known = json.loads(found)
                if known["digest"] != digest:
                    raise IdempotencyMismatchError(token)
                if (existing := self.get(known["job"])) is not None:
                    return existing, False
            changes = self._as_new(job)
            changes.set(name, json.dumps({"digest": digest, "job": job.id}), ex=self.keep_record_s)
            if self.commit(changes, name, found, room=self._room):
                return job, True

    @property
    def _room(self) -> Room:
        return Room(keys.QUEUED, self.max_queued)

    def _as_new(self, job: Job) -> Pipeline:
        changes = self.commit.changes()
        self._write(changes, job, before=None)
        changes.zadd(keys.jobs(job.owner), {job.id: 0})
        if job.spec.run is not None:
            changes.zadd(keys.jobs(job.owner, job.spec.run), {job.id: 0})
        return changes

    @translated
    def get(self, job_id: str) -> Job | None:
        """Read a job; None when there is none (any more)."""
        data = self.redis.get(keys.job(job_id))
        return None if data is None else Job.model_validate_json(data)

    @translated
    def update(
        self, job_id: str, transition: Transition, *, result: bytes | None = None, seen: Job | None = None
    ) -> Job | None:
        """Apply a transition by compare-and-set; returns the new job, or None when nothing was to change.

        `result`, if given, becomes the job's result file in the same transaction. Who has `seen` the job lately saves
        the question how it is; if it has changed since, it is asked all the same.
        """
        while True:
            if seen is None:
                known = payload(self.redis.get(keys.job(job_id)))
                before = None if known is None else Job.model_validate_json(known)
            else:
                before, known, seen = seen, seen.model_dump_json().encode(), None
            after = transition(before) if before else None
            if after is None:
                return None
            changes = self.commit.changes()
            self._write(changes, after, before=before)
            blob = None
            if result is not None:
                blob = Blob(keys.result(job_id), result, self.keep_blob_s)
                count(changes, blob.name, owner=after.owner, size=len(result), ends=self.now() + self.keep_blob_s)
            if self.commit(changes, keys.job(job_id), known, blob=blob):
                return after

    def _write(self, pipe: Pipeline, job: Job, *, before: Job | None) -> None:
        """Queue the record and its place in every index."""
        record = job.model_dump_json()
        # First: Redis refuses it when it is out of memory.
        pipe.set(keys.job(job.id), record, ex=self.keep_record_s if job.state.terminal else None)
        for name, amount in counted(before, job).items():
            pipe.hincrbyfloat(keys.COUNTERS, name, amount)
        told = happenings(before, job)
        ending = record if job.state.terminal else ""
        events.append(pipe, job.id, told, new=before is None, ending=ending, keep_s=self.keep_record_s)
        if before is None:
            kept_until = job.created + job.spec.ttl_s + self.keep_record_s
            count(pipe, keys.job(job.id), owner=job.owner, size=len(record) + RECORD_BYTES, ends=kept_until)
        if before is not None and before.state is job.state:
            return
        if before is not None and before.state is State.QUEUED:
            pipe.zrem(keys.QUEUED, job.id)
            pipe.zrem(keys.waiting(job.spec.priority), job.id)
            pipe.zrem(keys.EXPIRING, job.id)
        elif before is not None:
            pipe.zrem(keys.RUNNING, job.id)
        if job.state is State.QUEUED:
            self._send(pipe, job)
            pipe.zadd(keys.QUEUED, {job.id: job.queued_at})
            pipe.zadd(keys.waiting(job.spec.priority), {job.id: job.queued_at})
            if (ends := patience_ends(job)) is not None:
                pipe.zadd(keys.EXPIRING, {job.id: ends})
        elif job.state is State.RUNNING:
            pipe.zadd(keys.RUNNING, {job.id: self.now() + self.lease_s})
        else:
            if job.result is not None and job.worker is not None:
                pipe.incr(keys.solved(job.worker))
            pipe.hincrby(keys.FINISHED, job.state.value, 1)
            pipe.delete(keys.incumbent(job.id))
            pipe.lpush(keys.RECENT, job.id)
            pipe.ltrim(keys.RECENT, 0, RECENT - 1)
        if before is None or job.state.terminal:
            note = pipe.srem if job.state.terminal else pipe.sadd
            note(keys.unfinished(job.owner), job.id)
            if job.spec.run is not None:
                note(keys.active(job.owner, job.spec.run), job.id)

    @translated
    def page(
        self, owner: str, *, run: str | None, state: State | None, limit: int, cursor: str | None
    ) -> tuple[list[Job], str | None]:
        """Read an owner's jobs, newest first: (jobs, cursor of the next page or None)."""
        found: list[Job] = []
        index = keys.jobs(owner, run)
        for _ in range(MAX_PAGES_A_CALL):
            end = f"({cursor}" if cursor else "+"
            ids = names(self.redis.zrevrangebylex(index, end, "-", start=0, num=PAGE))
            for job_id, job in zip(ids, self.get_many(ids), strict=True):
                cursor = job_id
                if job is None:
                    self.redis.zrem(index, job_id)
                elif state is None or job.state is state:
                    found.append(job)
                    if len(found) == limit:
                        return found, cursor
            if len(ids) < PAGE:
                return found, None
        return found, cursor

    @translated
    def get_many(self, ids: list[str]) -> list[Job | None]:
        """Read several jobs at once."""
        data = self.redis.mget([keys.job(job_id) for job_id in ids]) if ids else []
        return [None if item is None else Job.model_validate_json(item) for item in data]

    @translated
    def active(self, owner: str, run: str) -> list[str]:
        """Ids of a run's unfinished jobs."""
        return sorted(names(self.redis.smembers(keys.active(owner, run))))

    @translated
    def renew(self, job_id: str) -> None:
        """Prolong a running job's lease."""
        self.redis.zadd(keys.RUNNING, {job_id: self.now() + self.lease_s}, xx=True)

    @translated
    def running(self) -> list[Job]:
        """All running jobs."""
        return self._existing(keys.RUNNING, "+inf")

    @translated
    def abandoned(self) -> list[Job]:
        """Running jobs whose lease has ended."""
        return self._existing(keys.RUNNING, self.now())

    @translated
    def overdue(self) -> list[Job]:
        """Queued jobs that have waited for too long."""
        return self._existing(keys.EXPIRING, self.now())

    @translated
    def unclaimed(self, *, older_than: float, most: int) -> list[Job]:
        """Queued jobs last sent before the given time, those first that have waited longest."""
        return self._existing(keys.QUEUED, older_than, most=most)

    @translated
    def busy(self) -> int:
        """How many jobs are running."""
        return int(self.redis.zcard(keys.RUNNING))

    @translated
    def send_again(self, job: Job) -> None:
        """Send a queued job's message once more, because the first one may be lost; claims tell them apart."""
        with self.redis.pipeline() as pipe:
            self._send(pipe, job)
            pipe.zadd(keys.QUEUED, {job.id: self.now()}, xx=True)
            pipe.execute()

    def _send(self, pipe: Pipeline, job: Job) -> None:
        """Queue the message: behind all others, or before them if the job has had its turn already."""
        message = self.messages.to_solve(job)
        push = pipe.rpush if job.attempt else pipe.lpush  # workers take from the right
        push(message.queue, message.text)

    @translated
    def counts(self) -> dict[str, int]:
        """Jobs by state; terminal ones since the store began."""
        finished = self.redis.hgetall(keys.FINISHED)
        counts = {state.value: 0 for state in State}
        counts |= dict(zip(names(finished.keys()), map(int, finished.values()), strict=True))
        counts[State.QUEUED.value] = self.redis.zcard(keys.QUEUED)
        counts[State.RUNNING.value] = self.redis.zcard(keys.RUNNING)
        return counts

    @translated
    def waiting(self) -> dict[str, tuple[int, float]]:
        """How many jobs are queued at each priority, and for how many seconds the oldest of them (0 for none)."""
        now = self.now()
        found: dict[str, tuple[int, float]] = {}
        for priority in PRIORITIES:
            name = keys.waiting(priority)
            oldest = self.redis.zrange(name, 0, 0, withscores=True)
            found[priority] = (self.redis.zcard(name), max(0.0, now - float(oldest[0][1])) if oldest else 0.0)
        return found

    @translated
    def recent(self, limit: int) -> list[Job]:
        """Jobs of all owners that ended last, newest first."""
        return [job for job in self.get_many(names(self.redis.lrange(keys.RECENT, 0, limit - 1))) if job is not None]

    @translated
    def counters(self) -> dict[str, float]:
        """Everything that `solver_service.rules.metrics` counts, since the store began."""
        found = self.redis.hgetall(keys.COUNTERS)
        return dict(zip(names(found.keys()), map(float, found.values()), strict=True))

    @translated
    def now(self) -> float:
        """Redis' own clock, so that all hosts agree on it: Unix time in seconds."""
        return self.clock.now()

    def _existing(self, index: str, end: float | str, *, most: int = 1000) -> list[Job]:
        ids = names(self.redis.zrangebyscore(index, "-inf", end, start=0, num=most))
        return list(self._drop_missing(index, ids))

    def _drop_missing(self, index: str, ids: list[str]) -> Iterator[Job]:
        for job_id, job in zip(ids, self.get_many(ids), strict=True):
            if job is None:
                self.redis.zrem(index, job_id)
            else:
                yield job
