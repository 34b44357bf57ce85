"""A job's events: one bounded Redis stream per job, and one channel that says whose stream has grown."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.client import Pipeline

from shared.contracts import JobEvent
from solver_service.rules.history import Happening
from solver_service.rules.jobs import Job
from solver_service.store import keys
from solver_service.store.connection import translated
from solver_service.store.records import decode

MOST_EVENTS = 1000
"""About so many of a job's newest events are kept."""
BEGINNING = "0-0"
"""The id before every event's."""
LISTEN_S = 0.2
ID_LENGTH = 32


def append(pipe: Pipeline, job_id: str, told: Sequence[Happening], *, new: bool, ending: str, keep_s: int) -> None:
    """Queue events into a transaction, so that they are told exactly when the change they tell is made.

    The channel gets the job's id, and the record of a job that ends (`ending`): who waits for it need not ask again.
    Of a new job it hears nothing, as nobody can know its id yet.
    """
    if not told:
        return
    name = keys.events(job_id)
    for happening in told:
        entry = {"kind": happening.kind, "data": json.dumps(happening.data)}
        pipe.xadd(name, entry, maxlen=MOST_EVENTS, approximate=True)  # type: ignore[arg-type]
    pipe.expire(name, keep_s)
    if not new:
        pipe.publish(keys.CHANGED, f"{job_id}{ending}")


@dataclass(frozen=True)
class EventStore:
    """All jobs' events of one Redis."""

    redis: redis.Redis

    @translated
    def after(self, job_id: str, last: str, *, most: int = 100) -> list[JobEvent]:
        """Read the events that came after the one with the id `last`."""
        found: Any = self.redis.xrange(keys.events(job_id), min=f"({last}", count=most)
        return [
            JobEvent(id=number.decode(), kind=entry[b"kind"].decode(), data=json.loads(entry[b"data"]))
            for number, entry in found
        ]

    def listen(self, stopped: Callable[[], bool]) -> Iterator[tuple[str, Job | None]]:
        """Yield every job that changes, until `stopped`: (id, its record if it has ended).

        Raises StoreUnavailableError when Redis goes.
        """
        channel = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        try:
            translated(channel.subscribe)(keys.CHANGED)
            while not stopped():
                message = translated(channel.get_message)(timeout=LISTEN_S)
                if message is not None:
                    word = message["data"].decode()
                    record = word[ID_LENGTH:]
                    yield word[:ID_LENGTH], decode(record) if record else None
        finally:
            channel.close()
