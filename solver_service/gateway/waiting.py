"""Wakes requests that wait for a job: one thread listens for all of them, and none is held per waiter."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Annotated

import structlog
from fastapi import Depends, Request

from solver_service.errors import StoreUnavailableError
from solver_service.store import Store

log = structlog.get_logger()

LOOK_AGAIN_S = 10.0
"""Waiters look by themselves this often, in case Redis was restarted and a word was lost."""
PAUSE_S = 0.5


class Waiter:
    """One request's place in the waiting room; it may be interested in the job's end alone."""

    def __init__(self, *, end_only: bool) -> None:
        self._end_only = end_only
        self._changed = asyncio.Event()

    def wake(self, *, ended: bool) -> None:
        """Say that the job has changed; from the event loop's own thread."""
        if ended or not self._end_only:
            self._changed.set()

    async def changed(self, within_s: float) -> None:
        """Return when the job has changed since the last call, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), min(within_s, LOOK_AGAIN_S))
        self._changed.clear()


class WaitingRoom:
    """Who waits for which job in this gateway."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters: defaultdict[str, set[Waiter]] = defaultdict(set)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="changes", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Begin listening for changes; call it from the event loop that the waiters run in."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End listening."""
        self._ended.set()
        self._thread.join(timeout=5)

    @contextlib.contextmanager
    def waiting_for(self, job_id: str, *, end_only: bool = False) -> Iterator[Waiter]:
        """Take a place; look at the job only after that, so that no change falls between."""
        waiter = Waiter(end_only=end_only)
        self._waiters[job_id].add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[job_id].discard(waiter)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    def _wake(self, job_id: str, ended: bool) -> None:
        for waiter in self._waiters.get(job_id, ()):
            waiter.wake(ended=ended)

    def _wake_all(self) -> None:
        for job_id in list(self._waiters):
            self._wake(job_id, True)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                for job_id, ended in self._store.events.listen(self._ended.is_set):
                    self._call(self._wake, job_id, ended)
            except StoreUnavailableError as error:
                log.warning("waiting room: Redis is away", reason=str(error))
                self._ended.wait(PAUSE_S)
                self._call(self._wake_all)

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)


async def _room(request: Request) -> WaitingRoom:
    room: WaitingRoom = request.app.state.waiting_room
    return room


Room = Annotated[WaitingRoom, Depends(_room)]
