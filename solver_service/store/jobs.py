"""Job records in Redis: every change is a pure transition, written by compare-and-set together with its indexes."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from redis.client import Pipeline

from solver_service.queue import Messages
from solver_service.rules.history import Happening, happenings, state_data
from solver_service.rules.jobs import Job
from solver_service.rules.metrics import counted
from solver_service.store import events, indexes, keys, turns
from solver_service.store.commit import Ahead, Blob, NoRoomError, Room
from solver_service.store.connection import payload, translated
from solver_service.store.quota import RECORD_BYTES, count
from solver_service.store.reading import JobReader
from solver_service.store.records import encode

Transition = Callable[[Job], Job | None]

# Only the attempt that holds a job keeps its lease. Renewing needs no memory: it goes on in a full Redis, see `commit`.
_RENEW = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('DEL', '')
redis.call('ZADD', KEYS[2], 'XX', ARGV[3], ARGV[1])
return 1
"""


class IdempotencyMismatchError(ValueError):
    """The same idempotency key came with another body."""


class QueueFullError(RuntimeError):
    """As many jobs are queued as may be."""


@dataclass(frozen=True)
class JobStore(JobReader):
    """All job records of one Redis."""

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

    @translated
    def made_before(self, owner: str, token: str, digest: str) -> Job | None:
        """The job that (key, body digest) already made, if there is one; raises IdempotencyMismatchError as `add`."""
        return self._known(owner, token, digest, payload(self.redis.get(keys.idempotency(owner, token))))

    def _known(self, owner: str, token: str, digest: str, found: bytes | None) -> Job | None:
        made, made_by = made_with(found)
        existing = self.get(made) if made else None
        if made_by != digest and (existing is not None or (made and self.redis.exists(keys.batch(owner, made)))):
            raise IdempotencyMismatchError(token)
        return existing

    def _add_once(self, job: Job, token: str, digest: str) -> tuple[Job, bool]:
        """Most often nothing is known under the key, since who submits has looked: so that is what is tried first."""
        name, found = keys.idempotency(job.owner, token), None
        while True:
            changes = self._as_new(job)
            changes.set(name, json.dumps({"digest": digest, "job": job.id}), ex=self.keep_record_s)
            if self.commit(changes, name, found, room=self._room):
                return job, True
            found = payload(self.redis.get(name))
            if (existing := self._known(job.owner, token, digest, found)) is not None:
                return existing, False

    @property
    def _room(self) -> Room:
        return Room(keys.QUEUED, self.max_queued)

    def _as_new(self, job: Job) -> Pipeline:
        changes = self.commit.changes()
        self.write_new(changes, job)
        return changes

    def write_new(self, changes: Pipeline, job: Job) -> None:
        """Queue all that is written of a new job, its message to a worker included."""
        self._write(changes, job, before=None)
        indexes.enlist(changes, job, keep_record_s=self.keep_record_s, now=self.now())

    @translated
    def update(
        self,
        job_id: str,
        transition: Transition,
        *,
        result: bytes | None = None,
        seen: Job | bytes | None = None,
        ahead: Ahead | None = None,
    ) -> Job | None:
        """Apply a transition by compare-and-set; returns the new job, or None when nothing was to change.

        `result` becomes the job's result file in the same transaction, if the job then has a result. Skips the read
        when the caller has `seen` the current record, read or as it is stored; if it has changed since, it is read all
        the same. Without a result file the change is made in a Redis that has reached its `maxmemory`, too. What is to
        be done `ahead` of the change travels with it.
        """
        before: Job | None
        known: bytes | None
        while True:
            if isinstance(seen, Job):
                before, known = seen, encode(seen).encode()
            else:
                known = self.records.raw(job_id) if seen is None else seen
                before = self.records.read(job_id, known)
            seen = None
            after = transition(before) if before else None
            if after is None or after is before:
                return after
            changes = self.commit.changes()
            self._write(changes, after, before=before)
            blob = None
            if result is not None and after.result is not None:
                blob = Blob(keys.result(job_id), result, self.keep_blob_s)
                count(changes, blob.name, owner=after.owner, size=len(result), ends=self.now() + self.keep_blob_s)
            if self.commit(changes, keys.job(job_id), known, blob=blob, owed=blob is None, ahead=ahead):
                return after
            ahead = None

    def _write(self, pipe: Pipeline, job: Job, *, before: Job | None) -> None:
        """Queue the record, its place in every index, what it counts for, and what is told of it."""
        record = encode(job)
        # First: Redis refuses it when it is out of memory.
        pipe.set(keys.job(job.id), record, ex=self.keep_record_s if job.state.terminal else None)
        indexes.place(pipe, job, before=before, messages=self.messages, lease_ends=self.now() + self.lease_s)
        for name, amount in counted(before, job).items():
            pipe.hincrbyfloat(keys.COUNTERS, name, amount)
        told = happenings(before, job)
        ending = record if job.state.terminal else ""
        events.append(pipe, job.id, told, new=before is None, ending=ending, keep_s=self.keep_record_s)
        if before is None:
            kept_until = job.created + job.spec.ttl_s + self.keep_record_s
            count(pipe, keys.job(job.id), owner=job.owner, size=len(record) + RECORD_BYTES, ends=kept_until)

    @translated
    def renew(self, job_id: str, attempt: int) -> bool:
        """Prolong a running job's lease; False when the attempt does not hold it any more."""
        ends = repr(self.now() + self.lease_s)
        return bool(self.redis.eval(_RENEW, 2, keys.HOLDING, keys.RUNNING, job_id, attempt, ends))

    @translated
    def send_again(self, job: Job, *, wake: bool = True) -> None:
        """Let a queued job wait (again), and wake a worker for it; claims tell two of them apart."""
        changes = self.commit.changes()
        turns.wait(changes, job)
        if wake:
            indexes.wake(changes, job, self.messages)
        changes.zadd(keys.QUEUED, {job.id: self.now()}, xx=True)
        self.commit(changes, keys.NOTHING, None, owed=True)

    @translated
    def take_back(self) -> list[str]:
        """Put the records back that were set aside, and that this release can read; returns their ids."""
        found = self.records.readable_again()
        for job in found:
            changes = self.commit.changes()
            self._put(changes, job, keep_s=self.keep_record_s)
            changes.hdel(keys.QUARANTINE, job.id)
            self.commit(changes, keys.job(job.id), None, owed=True)
        return [job.id for job in found]

    @translated
    def restore(self, job: Job, *, keep_s: int | None, counted: int | None) -> bool:
        """Store a job that comes out of a backup; False when there is one of its id already.

        It has `keep_s` seconds left if it is over, and counts for as many bytes as it did.
        """
        changes, keep_s = self.commit.changes(), keep_s or self.keep_record_s
        size = self._put(changes, job, keep_s=keep_s)
        ends = self.now() + keep_s + (0 if job.state.terminal else job.spec.ttl_s)
        count(changes, keys.job(job.id), owner=job.owner, size=counted or size + RECORD_BYTES, ends=ends)
        if not job.state.terminal:
            told = [Happening("log", {"message": "restored from a backup", "attempt": job.attempt})]
            told.append(Happening("state", state_data(job)))
            events.append(changes, job.id, told, new=False, ending="", keep_s=self.keep_record_s)
        return self.commit(changes, keys.job(job.id), None)

    def _put(self, changes: Pipeline, job: Job, *, keep_s: int) -> int:
        """Queue the record of a job that was known before, and its places; how many bytes the record has."""
        record = encode(job)
        changes.set(keys.job(job.id), record, ex=keep_s if job.state.terminal else None)
        if not job.state.terminal:
            ends = self.now() + self.lease_s
            indexes.place(changes, job, before=None, messages=self.messages, lease_ends=ends)
        indexes.enlist(changes, job, keep_record_s=self.keep_record_s, now=self.now())
        return len(record)


def made_with(found: bytes | None) -> tuple[str, str]:
    """What an idempotency key stands for: (id of a job or batch, body digest); empty for what cannot be read."""
    if found is None:
        return "", ""
    try:
        known = json.loads(found)
        made, digest = str(known["job"]), str(known["digest"])
        made.encode()  # half a surrogate pair is in no name
        return made, digest
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", ""
