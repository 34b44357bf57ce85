"""Batches in Redis: written in one piece with all of their jobs, and there as long as one of these is."""

import json
from dataclasses import dataclass

import redis
from pydantic import ValidationError

from solver_service.rules.batches import Batch
from solver_service.rules.jobs import Job
from solver_service.store import keys
from solver_service.store.commit import NoRoomError, Room
from solver_service.store.connection import payload, translated
from solver_service.store.indexes import LONGEST_LIFE_S
from solver_service.store.jobs import IdempotencyMismatchError, JobStore, QueueFullError, made_with
from solver_service.store.quota import Quota, count


@dataclass(frozen=True)
class BatchStore:
    """All batches of one Redis."""

    redis: redis.Redis
    jobs: JobStore
    quota: Quota

    @translated
    def add(self, batch: Batch, made: list[Job], *, idempotency: tuple[str, str] | None = None) -> Batch:
        """Store a new batch and send its jobs, all or none; or find what (key, body digest) already made.

        Raises QueueFullError where not all of them have room, IdempotencyMismatchError for the same key with another
        body.
        """
        name, known = keys.batch(batch.owner, batch.id), None
        if idempotency is not None:
            name = keys.idempotency(batch.owner, idempotency[0])
        while True:
            changes = self.jobs.commit.changes()
            data, keep_s = batch.model_dump_json(), self.jobs.keep_record_s + LONGEST_LIFE_S
            # First: Redis refuses it when it is out of memory.
            changes.set(keys.batch(batch.owner, batch.id), data, ex=keep_s)
            ends = batch.created + keep_s
            count(changes, keys.batch(batch.owner, batch.id), owner=batch.owner, size=len(data), ends=ends)
            if idempotency is not None:
                told = {"digest": idempotency[1], "job": batch.id}
                changes.set(name, json.dumps(told), ex=self.jobs.keep_record_s)
            for job in made:
                self.jobs.write_new(changes, job)
            try:
                if self.jobs.commit(changes, name, known, room=self._room(len(made))):
                    return batch
            except NoRoomError:
                detail = f"{self.jobs.max_queued} jobs may be queued, and there is no room for {len(made)} more"
                raise QueueFullError(detail) from None
            known = payload(self.redis.get(name))
            if idempotency is not None and (existing := self._known(batch.owner, known, idempotency[1])) is not None:
                return existing

    @translated
    def made_before(self, owner: str, token: str, digest: str) -> Batch | None:
        """The batch that (key, body digest) already made, if there is one; raises IdempotencyMismatchError as `add`."""
        return self._known(owner, payload(self.redis.get(keys.idempotency(owner, token))), digest)

    def _room(self, jobs: int) -> Room:
        return Room(keys.QUEUED, self.jobs.max_queued - jobs + 1)

    def _known(self, owner: str, known: bytes | None, digest: str) -> Batch | None:
        made, made_by = made_with(known)
        existing = self.find(owner, made)
        if existing is not None and not any(self.members(existing)):
            existing = None  # all of its jobs have expired
        if (existing is not None or (made and self.jobs.get(made) is not None)) and made_by != digest:
            raise IdempotencyMismatchError(made)
        return existing

    @translated
    def find(self, owner: str, batch_id: str) -> Batch | None:
        """Read an owner's batch; None where there is none."""
        data = payload(self.redis.get(keys.batch(owner, batch_id)))
        try:
            return None if data is None else Batch.model_validate_json(data, extra="ignore")
        except ValidationError:
            return None

    @translated
    def members(self, batch: Batch) -> list[Job | None]:
        """Read a batch's jobs in the order of their specs; one that has none left is deleted."""
        found = self.jobs.get_many(list(batch.jobs))
        if not any(found):
            self.quota.drop([keys.batch(batch.owner, batch.id)])
        return found
