"""The thread beside a running solve: renews the lease, stores incumbents, and obeys cancel, loss and shutdown."""

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import structlog

from shared.contracts import Progress, gap
from solver_service import jobs, weights
from solver_service.errors import StoreUnavailableError
from solver_service.milp.control import Control, IncumbentFound
from solver_service.store import Store

log = structlog.get_logger()


class Watchdog:
    """Watches one attempt of one job; use it as a context manager around the solve.

    The solver's thread only leaves its newest incumbent here; everything that touches Redis happens in this thread,
    and a Redis that is away for a while disturbs neither.
    """

    def __init__(self, store: Store, job: jobs.Job, *, every_s: float, shutting_down: Callable[[], bool]) -> None:
        self.control = Control(self._take)
        self._store = store
        self._job = job
        self._every_s = every_s
        self._shutting_down = shutting_down
        self._newest: IncumbentFound | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _take(self, incumbent: IncumbentFound) -> None:
        self._newest = incumbent

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._round()
            except StoreUnavailableError as error:
                log.warning("watchdog waits", job=self._job.id, reason=str(error))
            except Exception:
                # A watchdog that ended would lose the lease, and with it the job.
                log.exception("watchdog failed", job=self._job.id)

    def _round(self) -> None:
        if self._shutting_down():
            self.control.stop()
        job = self._store.jobs.get(self._job.id)
        if job is None or not job.holds(self._job.attempt) or job.cancel_requested:
            self.control.stop()
        if job is not None and job.holds(self._job.attempt):
            self._store.jobs.renew(job.id)
            self._store_newest()

    def _store_newest(self) -> None:
        found, self._newest = self._newest, None
        if found is None:
            return
        try:
            self._store.blobs.put_incumbent(self._job.id, weights.encode(found.moved))
        except StoreUnavailableError:
            self._newest = self._newest or found
            raise
        progress = Progress(
            t_s=found.t_s,
            objective=found.objective,
            bound=found.bound,
            gap=gap(found.objective, found.bound),
            nodes=found.nodes,
        )
        self._store.jobs.update(self._job.id, partial(jobs.report, progress=progress, attempt=self._job.attempt))
