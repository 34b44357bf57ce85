"""The thread beside a running solve: renews the lease, stores incumbents and log, obeys cancel, loss and shutdown."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from shared.contracts import Progress, gap
from solver_service import weights
from solver_service.errors import StoreUnavailableError
from solver_service.milp.core.control import Control, IncumbentFound
from solver_service.rules import jobs
from solver_service.store import Store
from solver_service.worker.log import AttemptLog

log = structlog.get_logger()


class Watchdog:
    """Watches over the attempts of one process, one at a time, from a thread that is started with the first of them.

    The solver's thread only leaves its newest incumbent here; everything that touches Redis happens in this thread,
    and a Redis that is away for a while disturbs neither.
    """

    def __init__(self, store: Store, *, every_s: float, shutting_down: Callable[[], bool]) -> None:
        self._store = store
        self._every_s = every_s
        self._shutting_down = shutting_down
        self._watched: Watched | None = None
        self._round = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def over(self, job: jobs.Job) -> Iterator["Watched"]:
        """Watch over one attempt of a job, whose solve has to listen to the control."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
        self._watched = watched = Watched(self._store, job)
        if job.cancel_requested:  # it was lost while it was being cancelled: all that is left is to tell its incumbent
            watched.control.stop()
        try:
            yield watched
        except Exception as error:
            watched.control.say(f"given up: {str(error) or type(error).__name__}")
            raise
        finally:
            watched.log.hand_over(now=True)
            self._watched = None
            with self._round:  # a round that is under way ends before the attempt does
                pass

    def _run(self) -> None:
        while True:
            time.sleep(self._every_s)
            # Whatever happens, even to the words about it: a watchdog that ended would lose the lease, and the job.
            with contextlib.suppress(Exception), self._round:
                if (watched := self._watched) is not None:
                    self._look_after(watched)

    def _look_after(self, watched: "Watched") -> None:
        if self._shutting_down():
            watched.control.stop()
        try:
            watched.round()
        except StoreUnavailableError as error:
            log.warning("watchdog waits", job=watched.job.id, reason=str(error))
        except Exception:
            log.exception("watchdog failed", job=watched.job.id)


class Watched:
    """One attempt: the job as it was seen last, and the newest incumbent that was not stored yet."""

    def __init__(self, store: Store, job: jobs.Job) -> None:
        self.log = AttemptLog(store, job)
        self.control = Control(self._take, self.log.write)
        self.job = job
        self._store = store
        self._newest: IncumbentFound | None = None
        self._swap = threading.Lock()  # the solver's thread and the watchdog's both change it

    def _take(self, incumbent: IncumbentFound) -> None:
        with self._swap:
            self._newest = incumbent

    def round(self) -> None:
        """Stop the solve if it is not wanted any more; otherwise renew its lease and store its incumbent."""
        job = self._store.jobs.get(self.job.id)
        if job is None or not job.holds(self.job.attempt) or job.cancel_requested:
            self.control.stop()
        if job is not None and job.holds(self.job.attempt):
            self.job = job
            if self._store.jobs.renew(job.id, job.attempt):
                self._store_newest()
                self.log.hand_over()
            else:
                self.control.stop()

    def _store_newest(self) -> None:
        with self._swap:
            found, self._newest = self._newest, None
        if found is None:
            return
        try:
            kept = self._store.blobs.put_incumbent(self.job.id, self.job.attempt, weights.encode(found.moved))
        except StoreUnavailableError:
            with self._swap:  # unless the solver has found a better one since
                self._newest = self._newest or found
            raise
        if not kept:
            return
        progress = Progress(
            t_s=found.t_s,
            objective=found.objective,
            bound=found.bound,
            gap=gap(found.objective, found.bound),
            nodes=found.nodes,
        )
        report = partial(jobs.report, progress=progress, attempt=self.job.attempt)
        self.job = self._store.jobs.update(self.job.id, report, seen=self.job) or self.job
