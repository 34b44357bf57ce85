"""Finds jobs whose worker died or whose message was lost, and requeues, expires or fails them."""

import threading
import time
from functools import partial

import structlog

from solver_service.errors import StoreUnavailableError
from solver_service.rules import jobs
from solver_service.store import Store

log = structlog.get_logger()


def sweep(store: Store, *, republish_s: float, judge: bool = True) -> None:
    """Do one round; safe to run at any time, because every change is a compare-and-set.

    Without `judge` no lease counts as ended: Redis was away, and no worker could renew its own.
    """
    now = store.jobs.now()
    for job in store.jobs.abandoned() if judge else []:
        give_up(store, job)
    for job in store.jobs.overdue():
        store.jobs.update(job.id, partial(jobs.expire, now=now))
    # As many as there are free workers: those would take these jobs now, if their messages had not been lost.
    free = sum(worker.slots for worker in store.workers.alive()) - store.jobs.busy()
    if free > 0:
        for job in store.jobs.unclaimed(older_than=now - republish_s, most=free):
            log.info("sent again", job=job.id)
            store.jobs.send_again(job)


def give_up(store: Store, job: jobs.Job) -> None:
    """Take a job from the attempt that held it, because its worker is lost, for another one."""
    now = store.jobs.now()
    back = store.jobs.update(job.id, partial(jobs.lose, attempt=job.attempt, now=now))
    if back is not None:
        log.warning("worker lost", job=job.id, attempt=job.attempt, worker=job.worker, state=back.state.value)


class Reaper:
    """Sweeps every second in a thread, while this gateway holds the reaper's lease."""

    def __init__(self, store: Store, *, republish_s: float, lease_s: float, every_s: float = 1.0) -> None:
        self._store = store
        self._republish_s = republish_s
        self._lease_s = lease_s
        self._judge_from: float | None = None
        self._every_s = every_s
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
                self._round()
            except StoreUnavailableError as error:
                self._judge_from = time.monotonic() + self._lease_s
                log.warning("reaper waits", reason=str(error))
            except Exception:
                # The reaper is what brings lost jobs back: no single bad record may end it.
                log.exception("reaper failed")

    def _round(self) -> None:
        reaping = self._store.reaper.hold()
        if self._judge_from is None:
            # A Redis that has just come back: each worker gets a lease's life to renew its own.
            self._judge_from = time.monotonic() + max(0.0, self._lease_s - self._store.up_for_s())
        if reaping:
            judge = time.monotonic() >= self._judge_from
            sweep(self._store, republish_s=self._republish_s, judge=judge)
