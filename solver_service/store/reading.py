"""Job records as they are asked for: one, many, an owner's page, or what is queued, running or over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import redis
import structlog

from shared.contracts import Priority, State
from solver_service.queue import TURNS_QUEUE
from solver_service.rules.jobs import Job
from solver_service.rules.numbers import finite
from solver_service.store import keys
from solver_service.store.clock import Clock
from solver_service.store.commit import Commit
from solver_service.store.connection import is_text, names, payload, translated
from solver_service.store.records import Records

log = structlog.get_logger()

PAGE = 100
MAX_PAGES_A_CALL = 10
MAX_PAGE_BYTES = 500_000
"""Of records on a page; what is sent says run and tags twice."""
MAX_CALL_BYTES = 8 * MAX_PAGE_BYTES
"""Of records that are read for a page, those of other states included."""
AT_ONCE = 20
"""So many records are asked for in one command: a record may have 130 kB, and Redis answers nobody else meanwhile."""
MOST_AT_ONCE = 1000
RECENT = 50
"""So many ended jobs are listed for whoever looks at the pool."""

PRIORITIES: tuple[Priority, ...] = get_args(Priority)


@dataclass(frozen=True)
class JobReader:
    """The reading half of all job records of one Redis. A record that cannot be read is as good as none."""

    redis: redis.Redis
    clock: Clock
    commit: Commit

    @cached_property
    def records(self) -> Records:
        """The records one by one."""
        return Records(self.redis, self.commit)

    @translated
    def get(self, job_id: str) -> Job | None:
        """Read a job; None when there is none (any more)."""
        return self.records.read(job_id, self.records.raw(job_id))

    @translated
    def get_many(self, ids: list[str]) -> list[Job | None]:
        """Read several jobs at once."""
        return [self.records.read(job_id, data) for job_id, data in self._raw_many(ids)]

    def _raw_many(self, ids: list[str]) -> Iterator[tuple[str, bytes | None]]:
        """Records as they are stored, which are fetched as they are looked at, a few at a time."""
        for begin in range(0, len(ids), AT_ONCE):
            some = ids[begin : begin + AT_ONCE]
            found = self.redis.mget([keys.job(job_id) for job_id in some])
            yield from ((job_id, payload(data)) for job_id, data in zip(some, found, strict=True))

    @translated
    def page(
        self, owner: str, *, run: str | None, state: State | None, limit: int, cursor: str | None
    ) -> tuple[list[Job], str | None]:
        """Read an owner's jobs, newest first: (jobs, cursor of the next page or None).

        A page of large records has fewer of them, and so has one for which many of another state were passed over.
        """
        found: list[Job] = []
        index, taken, seen = keys.jobs(owner, run), 0, 0
        for _ in range(MAX_PAGES_A_CALL):
            end = f"({cursor}" if cursor else "+"
            members = list(self.redis.zrevrangebylex(index, end, "-", start=0, num=PAGE))
            ids = self._ids(index, members)
            for job_id, data in self._raw_many(ids):
                cursor, job, size = job_id, self.records.read(job_id, data), len(data or b"")
                seen += size
                if job is None:
                    self.redis.zrem(index, job_id)
                elif state is None or job.state is state:
                    found.append(job)
                    taken += size
                if len(found) == limit or taken > MAX_PAGE_BYTES or seen > MAX_CALL_BYTES:
                    return found, cursor
            if len(members) < PAGE:
                return found, None
        return found, cursor

    @translated
    def active(self, owner: str, run: str) -> list[str]:
        """Ids of a run's unfinished jobs."""
        return sorted(names(self.redis.smembers(keys.active(owner, run))))

    @translated
    def running(self) -> list[Job]:
        """All running jobs."""
        return self._indexed(keys.RUNNING, State.RUNNING, "+inf")

    @translated
    def leases(self) -> dict[str, float]:
        """Every running job's sign of life: any change of it is one."""
        return self._signs(keys.RUNNING, -1)

    @translated
    def sent(self) -> dict[str, float]:
        """When each queued job was last sent, those first that have waited longest; any change is a new sign."""
        return self._signs(keys.QUEUED, MOST_AT_ONCE - 1)

    def _signs(self, index: str, last: int) -> dict[str, float]:
        found: Any = self.redis.zrange(index, 0, last, withscores=True)
        self._ids(index, [member for member, _ in found])
        return {member.decode(): sign for member, sign in found if is_text(member)}

    def _ids(self, index: str, members: list[Any]) -> list[str]:
        """The members of a sorted set as ids; what is no text is nobody's, and is taken out of it."""
        foreign = [member for member in members if not is_text(member)]
        if foreign:
            self.redis.zrem(index, *foreign)
            log.error("members that are no ids were taken out of an index", index=index, members=len(foreign))
        return names(members)

    @translated
    def overdue(self) -> list[Job]:
        """Queued jobs that have waited for too long."""
        return self._indexed(keys.EXPIRING, State.QUEUED, self.now())

    @translated
    def wakeups(self) -> int:
        """How many messages wait for a worker."""
        return int(self.redis.llen(TURNS_QUEUE))

    @translated
    def busy(self) -> int:
        """How many jobs are running."""
        return int(self.redis.zcard(keys.RUNNING))

    @translated
    def counts(self) -> dict[str, int]:
        """Jobs by state; terminal ones since the store began."""
        finished: Any = self.redis.hgetall(keys.FINISHED)
        counts = {state.value: 0 for state in State}
        counts |= {name: int(amount) for name, amount in _amounts(finished.items())}
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
        """Everything that `solver_service.rules.metrics` counts, since the store began; finite numbers alone."""
        found: Any = self.redis.hgetall(keys.COUNTERS)
        return dict(_amounts(found.items()))

    @translated
    def now(self) -> float:
        """Redis' own clock, so that all hosts agree on it: Unix time in seconds."""
        return self.clock.now()

    @translated
    def in_state(self, index: str, state: State, ids: list[str]) -> list[Job]:
        """Read what an index names; what it should not hold (any more) is taken out of it."""
        found = []
        for job_id, data in self._raw_many(ids):
            job = self.records.read(job_id, data)
            if job is not None and job.state is state:
                found.append(job)
                continue
            changes = self.commit.changes()
            changes.zrem(index, job_id)
            self.commit(changes, keys.job(job_id), data, owed=True)  # unless the record has changed since
        return found

    def _indexed(self, index: str, state: State, end: float | str) -> list[Job]:
        members = list(self.redis.zrangebyscore(index, "-inf", end, start=0, num=MOST_AT_ONCE))
        return self.in_state(index, state, self._ids(index, members))


def _amounts(found: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, float]]:
    """What is counted, by name: finite numbers alone."""
    for name, told in found:
        try:
            amount = float(told)
        except ValueError:
            continue  # no number: the next one to be added begins it anew
        if finite(amount) and is_text(name):
            yield name.decode(), amount
