"""A running attempt's log on its way to Redis: kept in memory by the solve, and handed over about once a second."""

import threading
import time
from collections.abc import Callable

import structlog

from solver_service.rules.jobs import Job
from solver_service.store import Store

log = structlog.get_logger()

EVERY_S = 1.0
MOST_WAITING = 64 * 1024
"""Characters that wait in memory; what comes faster is left out."""
LEFT_OUT = "[... text is left out here: it came faster than it could be kept ...]\n"
LOST = "[... text is missing here: it could not be stored ...]\n"


class AttemptLog:
    """What one attempt writes. The solve's thread only appends to a list; the watchdog hands it over."""

    def __init__(self, store: Store, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._job, self._clock = store, job, clock
        self._waiting: list[str] = [f"attempt {job.attempt} on {job.worker}\n"]
        self._size = 0
        self._next = clock() + EVERY_S
        self._swap = threading.Lock()  # what waits: the solve's thread adds to it, and who hands over takes it
        self._turn = threading.Lock()  # one hands over at a time, so that nothing comes before what is older

    def write(self, text: str) -> None:
        """Add text, without ever waiting for Redis."""
        with self._swap:
            if self._size > MOST_WAITING:
                return
            self._size += len(text)
            self._waiting.append(text if self._size <= MOST_WAITING else LEFT_OUT)

    def take(self) -> str:
        """What waits, for somebody else to hand over."""
        with self._turn:
            return self._taken()

    def _taken(self) -> str:
        self._next = self._clock() + EVERY_S
        with self._swap:
            text, self._waiting, self._size = "".join(self._waiting), [], 0
        return text

    def hand_over(self, *, now: bool = False) -> None:
        """Append what waits to the job's log, if it is time; what Redis does not take is dropped, and said so."""
        if not now and self._clock() < self._next:
            return
        with self._turn:
            text = self._taken()
            if not text:
                return
            try:
                self._store.logs.append(self._job, text)
            except Exception as error:  # whatever it is: a log is never a reason to lose a solve
                log.info("log not kept", job=self._job.id, reason=str(error))
                with self._swap:
                    self._waiting.insert(0, LOST)
