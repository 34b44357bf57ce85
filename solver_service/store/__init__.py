"""Redis behind small modules, one per kind of thing kept."""

import secrets
from dataclasses import dataclass
from typing import Self

import redis

from solver_service.queue import Messages
from solver_service.settings import Settings
from solver_service.store import keys
from solver_service.store.apikeys import ApiKeyStore
from solver_service.store.attached.batches import BatchStore
from solver_service.store.attached.logs import LogStore
from solver_service.store.blobs import BlobStore
from solver_service.store.clock import Clock
from solver_service.store.commit import Commit
from solver_service.store.connection import connect, translated
from solver_service.store.events import EventStore
from solver_service.store.jobs import JobStore
from solver_service.store.leases import ReaperLease
from solver_service.store.limits import Limits
from solver_service.store.models import ModelStore
from solver_service.store.operation import Operation
from solver_service.store.quota import Quota
from solver_service.store.snapshots import Snapshots
from solver_service.store.turns import Turns
from solver_service.store.workers import WorkerStore


@dataclass(frozen=True)
class Store:
    """All that one Redis holds for the service."""

    redis: redis.Redis
    jobs: JobStore
    turns: Turns
    blobs: BlobStore
    snapshots: Snapshots
    events: EventStore
    logs: LogStore
    batches: BatchStore
    models: ModelStore
    workers: WorkerStore
    reaper: ReaperLease
    apikeys: ApiKeyStore
    limits: Limits
    quota: Quota
    operation: Operation

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Wire the stores to the Redis that the settings name; connects at first use."""
        client, messages = connect(settings.redis_url), Messages()
        quota = Quota(client, settings.max_stored_bytes, settings.max_stored_bytes_per_key)
        blobs = BlobStore(client, settings.keep_blob_s, quota)
        jobs = JobStore(
            client,
            Clock(client),
            Commit(client),
            messages,
            keep_record_s=settings.keep_record_s,
            keep_blob_s=settings.keep_blob_s,
            lease_s=settings.lease_s,
            max_queued=settings.max_queued,
        )
        return cls(
            redis=client,
            jobs=jobs,
            turns=Turns(client),
            blobs=blobs,
            snapshots=Snapshots(blobs),
            events=EventStore(client),
            logs=LogStore(client, settings.keep_record_s),
            batches=BatchStore(client, jobs, quota),
            models=ModelStore(client, messages, quota),
            workers=WorkerStore(client, settings.heartbeat_s),
            reaper=ReaperLease(client, secrets.token_hex(8)),
            apikeys=ApiKeyStore(client),
            limits=Limits(client, settings.max_submissions_per_minute, settings.max_unfinished_per_key, quota),
            quota=quota,
            operation=Operation(client),
        )

    @translated
    def ping(self) -> None:
        """Raise StoreUnavailableError unless Redis answers."""
        self.redis.ping()

    @translated
    def is_full(self) -> bool:
        """Whether Redis has reached its `maxmemory`; one that is away is not, nor one that does not say."""
        try:
            memory = self.redis.info("memory")
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
            return False
        return 0 < int(memory["maxmemory"]) <= int(memory["used_memory"])

    @translated
    def memory(self) -> tuple[int, int]:
        """Bytes that Redis uses, and its `maxmemory`, 0 for none."""
        found = self.redis.info("memory")
        return int(found["used_memory"]), int(found.get("maxmemory", 0))

    @translated
    def is_reaped(self) -> bool:
        """Whether a gateway holds the reaper's lease."""
        return bool(self.redis.exists(keys.REAPER))

    @translated
    def quarantined(self) -> int:
        """How many records were set aside because nobody could read them."""
        return int(self.redis.hlen(keys.QUARANTINE))

    def close(self) -> None:
        """Close every connection."""
        self.redis.close()
