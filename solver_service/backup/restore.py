"""Brings a backup into a Redis: every entry by itself, and never over what is there."""

import json
import secrets
from dataclasses import dataclass, field
from typing import BinaryIO

from solver_service.backup.file import BackupError, Entry, check, entries
from solver_service.backup.take import HASHES, Kept
from solver_service.errors import ServiceError
from solver_service.rules import jobs
from solver_service.store import Store, keys
from solver_service.store.connection import names, translated
from solver_service.store.pieces import ARRIVING_S
from solver_service.store.quota import count
from solver_service.store.records import decode

PASSING = (keys.REAPER, keys.WORKERS, keys.MODE, keys.worker(""), keys.solved(""), keys.arriving(""), keys.rate(""))
"""What gateways and workers write by themselves: a Redis that has nothing else is empty."""
VALUES = ("gds:snapshot:", "gds:batch:", "gds:idempotency:", keys.result(""), keys.incumbent(""), keys.log(""))
"""The values that a backup may hold begin so."""


class NotEmptyError(ServiceError):
    """The Redis to restore into holds a pool's things already."""


@dataclass
class _Restoring:
    store: Store
    kept: Kept = field(default_factory=Kept)
    _looked_at: tuple[str, bool] = ("", False)

    def entry(self, entry: Entry) -> None:
        """Bring one entry back, unless it belongs to a job that is there."""
        if self._is_there(entry.head.get("job", "")):
            return
        match entry.head["kind"]:
            case "pool":
                self._pool(entry)
            case "value":
                self._value(entry)
            case "places":
                self._places(entry)
            case "events":
                self._events(entry)
            case "job":
                self._job(entry)
            # What a later release may add to a file is nothing that this one needs.

    def _is_there(self, job_id: str) -> bool:
        if not job_id:
            return False
        if self._looked_at[0] != job_id:
            self._looked_at = job_id, bool(self.store.redis.exists(keys.job(job_id)))
        return self._looked_at[1]

    def _pool(self, entry: Entry) -> None:
        told, redis = json.loads(entry.read()), self.store.redis
        for name in HASHES:
            for key, value in told["hashes"].get(name, {}).items():
                self.kept.api_keys += int(redis.hsetnx(name, key, value)) * (name == keys.API_KEYS)
        if told["api_keys_in_use"]:
            redis.set(keys.API_KEYS_IN_USE, "1")
        if told["recent"] and not redis.exists(keys.RECENT):
            redis.rpush(keys.RECENT, *told["recent"])

    def _value(self, entry: Entry) -> None:
        """Hand a value over in pieces, and give it its name, its life and its place in the sums at once."""
        name, ttl, owner, redis = *(entry.head[key] for key in ("name", "ttl", "owner")), self.store.redis
        if not name.startswith(VALUES):
            raise BackupError(f"damaged: {name[:80]!r} is nothing that a pool keeps")
        if redis.exists(name):
            return
        arriving = keys.arriving(secrets.token_hex(8))
        for piece in entry.pieces():
            redis.append(arriving, piece)
            redis.expire(arriving, ARRIVING_S)
        with redis.pipeline() as pipe:
            pipe.rename(arriving, name)
            pipe.expire(name, ttl) if ttl is not None else pipe.persist(name)
            if not name.startswith((keys.incumbent(""), "gds:idempotency:")):
                ends = self.store.quota.in_seconds(ttl if ttl is not None else self.store.jobs.keep_record_s)
                count(pipe, name, owner=owner, size=entry.size, ends=ends)
            pipe.execute()
        self.kept.snapshots += name.startswith("gds:snapshot:")

    def _places(self, entry: Entry) -> None:
        name = keys.log_places(entry.head["job"])
        self.store.redis.hset(name, mapping=json.loads(entry.read()))
        self.store.redis.expire(name, entry.head["ttl"] or self.store.jobs.keep_record_s)

    def _events(self, entry: Entry) -> None:
        name = keys.events(entry.head["job"])
        with self.store.redis.pipeline() as pipe:
            pipe.delete(name)  # of an attempt to restore that was broken off
            for at, told in json.loads(entry.read()):
                pipe.xadd(name, told, id=at)
            pipe.expire(name, entry.head["ttl"] or self.store.jobs.keep_record_s)
            pipe.execute()

    def _job(self, entry: Entry) -> None:
        job = decode(entry.read())
        if job is None or job.id != entry.head["job"]:
            raise BackupError(f"the record of job {entry.head['job'][:40]!r} cannot be read by this release")
        back = jobs.restored(job, now=self.store.jobs.now())
        if self.store.jobs.restore(back, keep_s=entry.head["ttl"], counted=entry.head["counted"]):
            self.kept.jobs += 1
            self.kept.unfinished += not job.state.terminal


@translated
def restore(store: Store, file: BinaryIO, *, force: bool = False) -> Kept:
    """Check a whole file, then bring it back; with `force` into a Redis that is not empty: what is there stays.

    Jobs that ran are queued again, with their incumbents and without a lost attempt; lives go on with the seconds that
    were left. Raises BackupError, before anything is written, and NotEmptyError. Broken off, it can be run again with
    `force`.
    """
    check(file)
    if not force and (found := _occupied(store)):
        raise NotEmptyError(f"this Redis is not empty ({found}): restore into an empty one, or add to it with --force")
    restoring = _Restoring(store)
    for entry in entries(file):
        restoring.entry(entry)
    return restoring.kept


def _occupied(store: Store) -> str | None:
    """Something that a pool has stored here for long; None in an empty Redis."""
    found = (name for name in names(store.redis.scan_iter(match="gds:*", count=1000)) if not name.startswith(PASSING))
    return next(found, None)
