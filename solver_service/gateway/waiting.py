"""Wakes requests that wait for a job: one thread listens for all of them, and none is held per waiter."""

import asyncio
import contextlib
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Protocol, TypeVar

import structlog
from fastapi import Depends, Header, Request
from starlette.concurrency import run_in_threadpool

from shared.contracts import MAX_WAIT_S
from solver_service.errors import StoreUnavailableError
from solver_service.rules.jobs import Job
from solver_service.store import Store

log = structlog.get_logger()

LOOK_AGAIN_S = 10.0
"""Waiters look by themselves this often, in case Redis was restarted and a word was lost."""
PAUSE_S = 0.5
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*(\d{1,9})\s*(?:$|[,;])", re.IGNORECASE)


class Ending(Protocol):
    """Something that ends."""

    @property
    def ended(self) -> bool:
        """Whether it has."""


Looked = TypeVar("Looked", bound=Ending)


class Waiter:
    """One request's place in the waiting room; it may be interested in the job's end alone."""

    def __init__(self, *, end_only: bool) -> None:
        self._end_only = end_only
        self._changed = asyncio.Event()
        self._ended: Job | None = None
        self.expected: list[str] = []

    def wake(self, ended: Job | None = None, *, look: bool = False) -> None:
        """Say that the job has changed or ended, or that it had better be looked at; from the event loop's thread."""
        self._ended = ended or self._ended
        if ended or look or not self._end_only:
            self._changed.set()

    async def changed(self, within_s: float) -> Job | None:
        """Return when the job has changed since the last call, or after so many seconds; its record if it has ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), min(within_s, LOOK_AGAIN_S))
        self._changed.clear()
        return self._ended


class WaitingRoom:
    """Who waits for which job in this gateway."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters: defaultdict[str, set[Waiter]] = defaultdict(set)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="changes", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closing = False

    def dismiss(self) -> None:
        """Have everybody answer now, with what is known, because the gateway ends; from the event loop's thread."""
        self.closing = True
        self._wake_all()

    def open(self) -> None:
        """Begin listening for changes; call it from the event loop that the waiters run in."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End listening."""
        self._ended.set()
        self._thread.join(timeout=5)

    @contextlib.contextmanager
    def waiting_for(self, *job_ids: str, end_only: bool = False) -> Iterator[Waiter]:
        """Take a place at each job; look at them only after that, so that no change falls between."""
        waiter = Waiter(end_only=end_only)
        for job_id in job_ids:
            self.expect(job_id, waiter)
        try:
            yield waiter
        finally:
            for job_id in waiter.expected:
                self._waiters[job_id].discard(waiter)
                if not self._waiters[job_id]:
                    del self._waiters[job_id]

    def expect(self, job_id: str, waiter: Waiter) -> None:
        """Give a waiter a place at one more job; from any thread, as long as nobody else can know of the job."""
        waiter.expected.append(job_id)
        self._waiters[job_id].add(waiter)

    async def end_of(self, job_id: str, look: Callable[[], Job], *, within_s: float) -> Job:
        """Give the job once it has ended, or as it is after so many seconds; `look` reads its record."""
        with self.waiting_for(job_id, end_only=True) as waiter:
            return await self.end_after(waiter, await run_in_threadpool(look), look, within_s=within_s)

    async def end_after(self, waiter: Waiter, job: Job, look: Callable[[], Job], *, within_s: float) -> Job:
        """The same for a job as it was after the waiter had taken its place."""
        end = time.monotonic() + within_s
        while not (job.state.terminal or self.closing) and (left := end - time.monotonic()) > 0:
            if (ended := await waiter.changed(left)) is not None:
                return ended
            job = await run_in_threadpool(look)
        return job

    async def ends_of(self, job_ids: Sequence[str], look: Callable[[], Looked], *, within_s: float) -> Looked:
        """Give what `look` finds once that has `ended`, or as it is after so many seconds."""
        end = time.monotonic() + within_s
        with self.waiting_for(*job_ids, end_only=True) as waiter:
            while True:
                found = await run_in_threadpool(look)
                left = end - time.monotonic()
                if found.ended or left <= 0 or self.closing:
                    return found
                await waiter.changed(left)

    def _wake(self, job_id: str, ended: Job | None) -> None:
        for waiter in self._waiters.get(job_id, ()):
            waiter.wake(ended)

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake(look=True)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                for job_id, ended in self._store.events.listen(self._ended.is_set):
                    if job_id in self._waiters:  # who comes later looks for himself
                        self._call(self._wake, job_id, ended)
            except StoreUnavailableError as error:
                log.warning("waiting room: Redis is away", reason=str(error))
                self._ended.wait(PAUSE_S)
                self._call(self._wake_all)
            except Exception:
                # While a pool is upgraded, workers may still speak as before: waiters then look for themselves.
                log.exception("waiting room: a word was not understood")
                self._ended.wait(PAUSE_S)
                self._call(self._wake_all)

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)


async def _room(request: Request) -> WaitingRoom:
    room: WaitingRoom = request.app.state.waiting_room
    return room


Room = Annotated[WaitingRoom, Depends(_room)]


async def _preferred(
    prefer: Annotated[
        str, Header(description="`wait=SECONDS` (RFC 7240): answer when the job has ended, or after so long")
    ] = "",
) -> float:
    found = WAIT.search(prefer)
    return min(MAX_WAIT_S, float(found[1])) if found else 0.0


Preferred = Annotated[float, Depends(_preferred)]
"""For how many seconds the sender of a submission would rather wait for the job's end than ask for it later."""
