"""The Celery worker: heartbeats in the parent, one job at a time in each child, a shutdown that keeps incumbents."""

import contextlib
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from billiard.process import current_process
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
from solver_service.worker.board import Board, Overseer, Pulse
from solver_service.worker.consumer import PatientConsumer
from solver_service.worker.models import write_model
from solver_service.worker.tasks import Attempts
from solver_service.worker.watchdog import Watchdog

log = structlog.get_logger()

KEEP_BELOW_KIB = 1024 * 1024
"""A child that ever held more is replaced after its job: what an allocator once took it seldom gives back."""
FULL_PAUSE_S = 5.0
REPLACE_S = 0.2
"""How often dead children are looked for. Celery looks when a child's pipe closes, a moment before it is dead, and then
every five seconds: until then nobody would take its jobs."""


@dataclass(frozen=True)
class Identity:
    """Who a worker is: a name to show, which another one may have, too, and an id that is its own."""

    name: str
    id: str

    def token(self, task_id: str) -> str:
        """The claim of one task of this worker's, made in the child that works on it."""
        return f"{self.id}:{os.getpid()}:{task_id}"


def run_worker(settings: Settings, *, name: str | None, slots: int) -> None:
    """Serve jobs until SIGTERM or SIGINT; a running solve is then interrupted and handed on with its incumbent.

    Exits with 1 if it ends without having been told to.
    """
    worker = Identity(name or f"{socket.gethostname()}-{os.getpid()}", secrets.token_hex(6))
    no_core_dumps()
    _await_room(settings)
    app = queue.celery_app(settings.redis_url)
    app.conf.worker_consumer = PatientConsumer
    board = Board(slots)
    _register_tasks(app, settings, worker, board)
    _Heart(Store.open(settings), worker, slots=slots, every_s=settings.heartbeat_s).follow_worker()

    def say_stop(**_: Any) -> None:
        board.stop()

    losses = _Losses(settings, worker)

    def look_after_children(*, sender: Any, **_: Any) -> None:
        Overseer(board, killed=losses.of_child).start()
        replace_children(sender)

    # As root (the usual user of a container that sets none) Celery warns of pickle; this worker accepts JSON alone.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(leave_logging, weak=False)
    signals.worker_shutting_down.connect(say_stop, weak=False)
    signals.worker_ready.connect(look_after_children, weak=False)
    signals.task_failure.connect(losses.notice, weak=False)
    serve: Callable[[list[str]], object] = app.worker_main  # it returns, whatever its stubs say
    serve(
        [
            "--quiet",
            "worker",
            f"--hostname={worker.name}-{worker.id}@%h",
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
    if not board.stopping():
        log.error("worker ends: it cannot go on", worker=worker.name)
        raise SystemExit(1)


def leave_logging(**_: Any) -> None:
    """Keep Celery from setting logs up its own way: `solver_service.logs` has done it."""


def replace_children(consumer: Any) -> None:
    """Have a consumer's dead children replaced within `REPLACE_S`."""
    consumer.hub.call_repeatedly(REPLACE_S, consumer.pool.maintain_pool)


def _await_room(settings: Settings) -> None:
    """Wait while Redis is full: Celery declares its queues there, and would end at once, again and again."""
    with contextlib.closing(Store.open(settings)) as store:
        while store.is_full():
            log.warning("worker waits: Redis has reached its maxmemory")
            time.sleep(FULL_PAUSE_S)


def _register_tasks(app: Celery, settings: Settings, worker: Identity, board: Board) -> None:
    attempts: list[Attempts] = []
    pulses: list[Pulse] = []

    def begin_child(**_: Any) -> None:
        die_with_parent()
        pulses.append(Pulse(board, getattr(current_process(), "index", 0)))
        pulses[0].start()

    def work(task: Any, job_id: str) -> None:
        if not attempts:  # opened in the child: connections do not survive a fork
            store = Store.open(settings)
            watchdog = Watchdog(store, every_s=settings.watch_s, shutting_down=board.stopping)
            attempts.append(Attempts(store, settings, worker.name, watchdog, board.stopping, pulses[0]))
        if attempts[0].store.operation.mode() is Mode.PAUSED:
            return  # the job stays queued: `gdsolver-pool resume` sends its message again
        attempts[0].run(job_id, token=worker.token(task.request.id))

    def write(job_id: str) -> None:
        with contextlib.closing(Store.open(settings)) as store:
            write_model(store, job_id, ceiling_mb=settings.worker_memory_mb)

    signals.worker_process_init.connect(begin_child, weak=False)
    app.task(name=TASK, bind=True)(work)
    app.task(name=MODEL_TASK)(write)


class _Losses:
    """Gives a job back at once when the child that worked on it has died: there is no need to wait for its lease."""

    def __init__(self, settings: Settings, worker: Identity) -> None:
        self._store = Store.open(settings)
        self._worker = worker

    def notice(self, *, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        """Hear of a failed task; in the parent that is one whose process was lost or killed for its time."""
        if sender.name == TASK and isinstance(exception, WorkerLostError | TimeLimitExceeded):
            self._give_up(lambda claim: claim.endswith(f":{task_id}"))

    def of_child(self, pid: int) -> None:
        """Give back what a child that was killed had; Celery waits for ten seconds whether its answer still comes."""
        self._give_up(lambda claim: claim.startswith(f"{self._worker.id}:{pid}:"))

    def _give_up(self, lost: Callable[[str], bool]) -> None:
        # In a thread: Celery's own, and who looks after the children, must go on, even while Redis is away.
        threading.Thread(target=self._give_back, args=(lost,), name="loss", daemon=True).start()

    def _give_back(self, lost: Callable[[str], bool]) -> None:
        try:
            for job in self._store.jobs.running():
                if job.claim is not None and job.claim.startswith(f"{self._worker.id}:") and lost(job.claim):
                    give_up(self._store, job)
        except StoreUnavailableError as error:
            log.warning("loss not told: the reaper will see it", worker=self._worker.name, reason=str(error))


class _Heart:
    """Tells the store every few seconds that the worker is alive, from the moment it takes jobs until it stops."""

    def __init__(self, store: Store, worker: Identity, *, slots: int, every_s: float) -> None:
        self._store = store
        self._worker = worker
        self._slots = slots
        self._every_s = every_s
        self._stopped = threading.Event()

    def follow_worker(self) -> None:
        """Begin when Celery is ready, end when it shuts down."""
        signals.worker_ready.connect(self._begin, weak=False)
        signals.worker_shutdown.connect(self._end, weak=False)

    def _begin(self, **_: Any) -> None:
        log.info("worker ready", worker=self._worker.name, slots=self._slots)
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def _end(self, **_: Any) -> None:
        self._stopped.set()
        try:
            self._store.workers.leave(self._worker.id)
        except StoreUnavailableError:
            log.info("left without a word: Redis is away", worker=self._worker.name)

    def _run(self) -> None:
        host, pid = socket.gethostname(), os.getpid()
        while True:
            try:
                self._store.workers.beat(
                    self._worker.name, worker_id=self._worker.id, host=host, pid=pid, slots=self._slots
                )
            except StoreUnavailableError as error:
                log.warning("heartbeat failed", reason=str(error))
            if self._stopped.wait(self._every_s):
                return
