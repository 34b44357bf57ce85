"""The Celery worker: heartbeats in the parent, one job at a time in each child, a shutdown that keeps incumbents."""

import contextlib
import multiprocessing
import os
import socket
import threading
import warnings
from typing import Any

import structlog
from celery import Celery, signals
from celery.exceptions import SecurityWarning, TimeLimitExceeded, WorkerLostError

from solver_service import queue
from solver_service.errors import StoreUnavailableError
from solver_service.pool.lifeline import die_with_parent, no_core_dumps
from solver_service.queue import MODEL_TASK, QUEUES, TASK
from solver_service.reaper import give_up
from solver_service.settings import Settings
from solver_service.store import Store
from solver_service.store.operation import Mode
from solver_service.worker.models import write_model
from solver_service.worker.tasks import Attempts
from solver_service.worker.watchdog import Watchdog

log = structlog.get_logger()

KEEP_BELOW_KIB = 1024 * 1024
"""A child that ever held more is replaced after its job: what an allocator once took it seldom gives back."""


def run_worker(settings: Settings, *, name: str | None, slots: int) -> None:
    """Serve jobs until SIGTERM or SIGINT; a running solve is then interrupted and handed on with its incumbent."""
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    no_core_dumps()
    app = queue.celery_app(settings.redis_url)
    shutdown = multiprocessing.Event()
    _register_task(app, settings, name, shutting_down=shutdown)
    _Heart(Store.open(settings), name, slots=slots, every_s=settings.heartbeat_s).follow_worker()

    def say_stop(**_: Any) -> None:
        shutdown.set()

    def tie_child(**_: Any) -> None:
        die_with_parent()

    # As root (the usual user of a container that sets none) Celery warns of pickle; this worker accepts JSON alone.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.worker_shutting_down.connect(say_stop, weak=False)
    signals.worker_process_init.connect(tie_child, weak=False)
    signals.task_failure.connect(_Losses(settings, name).notice, weak=False)
    app.worker_main(
        [
            "--quiet",
            "worker",
            f"--hostname={name}@%h",
            f"--concurrency={slots}",
            f"--queues={','.join(QUEUES)}",
            "--pool=prefork",
            f"--max-memory-per-child={KEEP_BELOW_KIB}",
            "--loglevel=WARNING",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def _register_task(app: Celery, settings: Settings, name: str, *, shutting_down: Any) -> None:
    attempts: list[Attempts] = []

    def work(job_id: str) -> None:
        if not attempts:  # opened in the child: connections do not survive a fork
            store, stopping = Store.open(settings), shutting_down.is_set
            watchdog = Watchdog(store, every_s=settings.watch_s, shutting_down=stopping)
            attempts.append(Attempts(store, settings, name, watchdog, stopping))
        if attempts[0].store.operation.mode() is Mode.PAUSED:
            return  # the job stays queued: `gdsolver-pool resume` sends its message again
        attempts[0].run(job_id)

    def write(job_id: str) -> None:
        with contextlib.closing(Store.open(settings)) as store:
            write_model(store, job_id, ceiling_mb=settings.worker_memory_mb)

    app.task(name=TASK)(work)
    app.task(name=MODEL_TASK)(write)


class _Losses:
    """Gives a job back at once when the child that worked on it has died: there is no need to wait for its lease."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._store = Store.open(settings)
        self._name = name

    def notice(self, *, sender: Any, exception: BaseException, args: Any = None, **_: Any) -> None:
        """Hear of a failed task; in the parent that is one whose process was lost or killed for its time."""
        if sender.name == TASK and isinstance(exception, WorkerLostError | TimeLimitExceeded) and args:
            # In a thread: Celery's own must go on, even while Redis is away.
            threading.Thread(target=self._give_up, args=(str(args[0]),), name="loss", daemon=True).start()

    def _give_up(self, job_id: str) -> None:
        try:
            job = self._store.jobs.get(job_id)
            if job is not None and job.worker == self._name:
                give_up(self._store, job)
        except StoreUnavailableError as error:
            log.warning("loss not told: the reaper will see it", job=job_id, reason=str(error))


class _Heart:
    """Tells the store every few seconds that the worker is alive, from the moment it takes jobs until it stops."""

    def __init__(self, store: Store, name: str, *, slots: int, every_s: float) -> None:
        self._store = store
        self._name = name
        self._slots = slots
        self._every_s = every_s
        self._stopped = threading.Event()

    def follow_worker(self) -> None:
        """Begin when Celery is ready, end when it shuts down."""
        signals.worker_ready.connect(self._begin, weak=False)
        signals.worker_shutdown.connect(self._end, weak=False)

    def _begin(self, **_: Any) -> None:
        log.info("worker ready", worker=self._name, slots=self._slots)
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def _end(self, **_: Any) -> None:
        self._stopped.set()
        try:
            self._store.workers.leave(self._name)
        except StoreUnavailableError:
            log.info("left without a word: Redis is away", worker=self._name)

    def _run(self) -> None:
        while True:
            try:
                self._store.workers.beat(self._name, host=socket.gethostname(), pid=os.getpid(), slots=self._slots)
            except StoreUnavailableError as error:
                log.warning("heartbeat failed", reason=str(error))
            if self._stopped.wait(self._every_s):
                return
