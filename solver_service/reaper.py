"""Finds jobs whose worker died or whose message was lost, and requeues, expires or fails them."""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TypeVar

import structlog

from shared.contracts import State
from solver_service.errors import StoreFullError, StoreUnavailableError
from solver_service.rules import jobs
from solver_service.rules.vigil import Vigil
from solver_service.store import Store, keys

log = structlog.get_logger()

T = TypeVar("T")


def sweep(store: Store, *, silent: Collection[str] = (), forgotten: Collection[str] = ()) -> None:
    """Do one round; safe to run at any time, because every change is a compare-and-set.

    Running jobs that were `silent` for a lease's whole life are taken from their workers; queued ones that nobody has
    claimed for long are sent again, if somebody could.
    """
    _apart(store, "lost jobs", lambda: _take_from_workers(store, silent), None)
    _apart(store, "overdue jobs", lambda: _expire(store), None)
    _apart(store, "lost messages", lambda: _send_again(store, forgotten), None)


def _apart(store: Store, part: str, do: Callable[[], T], otherwise: T) -> T:
    """Do one part of a round: short of Redis being away, nothing that is wrong with it stops the others."""
    try:
        return do()
    except StoreFullError as error:
        log.warning("reaper goes on: Redis is full", part=part, reason=str(error))
    except Exception as error:
        if isinstance(error, StoreUnavailableError):
            store.ping()  # raises if Redis is away; if not, it refuses something that this part needs
        log.exception("reaper failed", part=part)
    return otherwise


def _take_from_workers(store: Store, silent: Collection[str]) -> None:
    _each(store, store.jobs.in_state(keys.RUNNING, State.RUNNING, list(silent)), partial(give_up, store))


def _expire(store: Store) -> None:
    now = store.jobs.now()
    _each(store, store.jobs.overdue(), lambda job: store.jobs.update(job.id, partial(jobs.expire, now=now)))


def _send_again(store: Store, forgotten: Collection[str]) -> None:
    """As many as there are free workers: those would take these jobs now, if their messages had not been lost."""
    free = sum(worker.slots for worker in store.workers.alive()) - store.jobs.busy() if forgotten else 0
    if free > 0:
        missing = free - store.jobs.wakeups()
        for number, job in enumerate(store.jobs.in_state(keys.QUEUED, State.QUEUED, list(forgotten)[:free])):
            log.info("sent again", job=job.id)
            store.jobs.send_again(job, wake=number < missing)


def _each(store: Store, found: Iterable[jobs.Job], do: Callable[[jobs.Job], object]) -> None:
    """Do something for every job; one that it cannot be done for keeps no other one from it."""
    for job in found:
        _apart(store, job.id, partial(do, job), None)


def give_up(store: Store, job: jobs.Job) -> None:
    """Take a job from the attempt that held it, because its worker is lost, for another one."""
    now = store.jobs.now()
    back = store.jobs.update(job.id, partial(jobs.lose, attempt=job.attempt, now=now))
    if back is not None:
        log.warning("worker lost", job=job.id, attempt=job.attempt, worker=job.worker, state=back.state.value)


class Reaper:
    """Sweeps every second in a thread, while this gateway holds the reaper's lease.

    It ends a job's lease only after it has itself seen no sign of it for the lease's whole life, awake and with Redis
    answering: a clock that steps, a paused Redis or a frozen machine costs no healthy worker its job.
    """

    def __init__(
        self,
        store: Store,
        *,
        republish_s: float,
        lease_s: float,
        every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._leases = Vigil(life_s=lease_s, every_s=every_s)
        self._queue = Vigil(life_s=republish_s, every_s=every_s)
        self._every_s = every_s
        self._clock = clock
        self._took_back = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin sweeping."""
        self._thread.start()

    def stop(self) -> None:
        """End sweeping and wait for the round in progress."""
        self._ended.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self.round()
            except StoreFullError as error:
                log.warning("reaper goes on: Redis is full", reason=str(error))
            except StoreUnavailableError as error:
                self.forget()
                log.warning("reaper waits", reason=str(error))
            except Exception:
                # The reaper is what brings lost jobs back: nothing may end it.
                log.exception("reaper failed")

    def round(self) -> None:
        """Do one round, if this is the gateway that reaps."""
        if not self._store.reaper.hold():
            self.forget()
            return
        if not self._took_back:
            back: list[str] = _apart(self._store, "records set aside", self._store.jobs.take_back, [])
            for job_id in back:
                log.warning("record taken back: it can be read again", job=job_id)
            self._took_back = True
        # Read first, and timed after: a Redis that was paused meanwhile shows as a gap.
        nothing: dict[str, float] = {}
        leases = _apart(self._store, "leases", self._store.jobs.leases, nothing)
        sent = _apart(self._store, "queue", self._store.jobs.sent, nothing)
        now = self._clock()
        sweep(self._store, silent=self._leases.look(now, leases), forgotten=self._queue.look(now, sent))

    def forget(self) -> None:
        """Begin to watch anew: whoever did not see all of it may not judge."""
        self._leases.forget()
        self._queue.forget()
