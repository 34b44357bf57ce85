"""Writes a pool that goes on working into a file, piece by piece.

Each record is read in one moment, and what belongs to it after that; indexes are not kept, since restoring makes them
from the records. So whatever happens meanwhile, the file holds no job that contradicts itself: at worst one that has
ended since is in it as it was.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import structlog

from solver_service.backup.file import PIECE_BYTES, Writer
from solver_service.rules.jobs import Job
from solver_service.store import Store, keys
from solver_service.store.connection import names, translated
from solver_service.store.pieces import whole

log = structlog.get_logger()

HASHES = (keys.API_KEYS, keys.API_KEYS_REVOKED, keys.WEIGHTS, keys.COUNTERS, keys.FINISHED, keys.QUARANTINE)
"""Kept whole: they are small. API keys come first, so that a pool is never open while it is restored."""


@dataclass
class Kept:
    """What a backup holds, or what was restored of one; what was left out has another type than a pool gives it."""

    jobs: int = 0
    unfinished: int = 0
    snapshots: int = 0
    api_keys: int = 0
    left_out: int = 0


@dataclass
class _Taking:
    store: Store
    writer: Writer
    kept: Kept = field(default_factory=Kept)
    snapshots: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)

    def everything(self) -> None:
        """Snapshots come before the jobs that need them, so that whoever restores can let these begin at once."""
        self._pool(HASHES[:-1])
        for name in self._named(keys.snapshot("*", "*")):
            self._snapshot(name)
        for pattern in (keys.batch("*", "*"), keys.idempotency("*", "*")):
            for name in self._named(pattern):
                self._value(name, owner=name.split(":")[2])
        for name in self._named(keys.job("*")):
            if self._is("string", name):
                self._job(name.rpartition(":")[2])
        self._pool(HASHES[-1:])  # a record that could not be read on the way was set aside

    def _pool(self, kept: Sequence[str]) -> None:
        redis = self.store.redis
        hashes: dict[str, dict[str, str]] = {
            name: {_text(key): _text(value) for key, value in redis.hgetall(name).items()}
            for name in kept
            if self._is("hash", name)
        }
        self.kept.api_keys += len(hashes.get(keys.API_KEYS, ()))
        found = {
            "hashes": hashes,
            "api_keys_in_use": self.store.apikeys.in_use(),
            "recent": names(redis.lrange(keys.RECENT, 0, -1)) if self._is("list", keys.RECENT) else [],
        }
        self._small({"kind": "pool"}, found)

    def _snapshot(self, name: str) -> None:
        if name not in self.snapshots and self._value(name, owner=name.split(":")[2]):
            self.snapshots.add(name)
            self.kept.snapshots += 1

    def _job(self, job_id: str) -> None:
        record = None if job_id in self.jobs else self.store.jobs.records.raw(job_id)
        job = self.store.jobs.records.read(job_id, record)
        if job is None or record is None:
            return
        self.jobs.add(job_id)
        if job.state.terminal:
            if not self._value(keys.result(job_id), job=job) and self.store.jobs.records.raw(job_id) is None:
                return  # purged meanwhile, both at once; a result may also have expired before its record
        else:
            self._snapshot(keys.snapshot(job.owner, job.snapshot))
            self._value(keys.incumbent(job_id), job=job, at_once=True)  # a better one may replace it at any time
        self._value(keys.log(job_id), job=job, at_once=True)
        self._places(job)
        self._events(job)
        ttl = self._ttl(keys.job(job_id)) if job.state.terminal else None
        counted = self._size_told(keys.job(job_id))
        head = {"kind": "job", "job": job_id, "ttl": ttl, "counted": counted}
        self.writer.add(head, len(record), [record])
        self.kept.jobs += 1
        self.kept.unfinished += not job.state.terminal

    def _value(self, name: str, *, owner: str = "", job: Job | None = None, at_once: bool = False) -> bool:
        """Write text or bytes that are kept under one name; whether there are any."""
        redis = self.store.redis
        if not self._is("string", name):
            return False
        data = (whole(redis, name) or b"") if at_once else None
        size = int(redis.strlen(name)) if data is None else len(data)
        if size == 0:
            return False
        pieces = self._pieces(name, size) if data is None else [data]
        head: dict[str, Any] = {"kind": "value", "name": name, "ttl": self._ttl(name), "owner": owner}
        if job is not None:
            head |= {"job": job.id, "owner": job.owner}
        return self.writer.add(head, size, pieces)

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        for begin in range(0, size, PIECE_BYTES):
            yield bytes(self.store.redis.getrange(name, begin, begin + PIECE_BYTES - 1))  # type: ignore[arg-type]

    def _places(self, job: Job) -> None:
        name = keys.log_places(job.id)
        found: dict[Any, Any] = self.store.redis.hgetall(name) if self._is("hash", name) else {}
        if found:
            told = {_text(key): _text(value) for key, value in found.items()}
            self._small({"kind": "places", "job": job.id, "ttl": self._ttl(name)}, told)

    def _events(self, job: Job) -> None:
        name = keys.events(job.id)
        found: Any = self.store.redis.xrange(name) if self._is("stream", name) else []
        if found:
            told = [[_text(at), {_text(key): _text(value) for key, value in entry.items()}] for at, entry in found]
            self._small({"kind": "events", "job": job.id, "ttl": self._ttl(name)}, told)

    def _small(self, head: dict[str, Any], told: Any) -> None:
        data = json.dumps(told).encode()
        self.writer.add(head, len(data), [data])

    def _size_told(self, name: str) -> int | None:
        """As how many bytes it counts, where that is told."""
        sizes = keys.BLOB_SIZES
        found = self.store.redis.hget(sizes, name) if self._is("hash", sizes) else None
        told = _text(found or b"").partition(" ")[0]
        return int(told) if told.isascii() and told.isdigit() and len(told) < 16 else None

    def _is(self, kind: str, name: str) -> bool:
        """Whether what is kept under a name has its type, or there is nothing; what has not is left out, and named."""
        found = _text(self.store.redis.type(name))
        if found in (kind, "none"):
            return True
        if name not in self.foreign:
            self.foreign.add(name)
            self.kept.left_out += 1
            log.error("left out of the backup: it is of another type than a pool writes", name=name, found=found)
        return False

    def _ttl(self, name: str) -> int | None:
        """The seconds that it has left; None for what does not expire."""
        left = int(self.store.redis.ttl(name))
        return max(1, left) if left >= 0 else None

    def _named(self, pattern: str) -> Iterator[str]:
        for name in self.store.redis.scan_iter(match=pattern, count=1000):
            yield _text(name)


@translated
def take(store: Store, file: BinaryIO) -> Kept:
    """Write all that a pool has to keep into a new file; what expires within the hour, such as models, is left out."""
    taking = _Taking(store, Writer(file))
    taking.everything()
    taking.writer.close()
    return taking.kept


def _text(value: Any) -> str:
    """Redis' text; what is no text, which only a spoilt record is, in a form that can be looked at."""
    return bytes(value).decode(errors="backslashreplace")
