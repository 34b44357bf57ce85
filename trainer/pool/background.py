"""The background worker: takes a stall's samples to the pool and brings the answers back, while training goes on.

Its thread handles arrays alone. It never sees the model, its data or a tensor: a data loader that forks while this
thread holds one of torch's locks would hang.
"""

import itertools
import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet, finalize

from shared.contracts import JobSpec, JobStatus
from shared.errors import ContractError
from trainer.errors import CaptureError, PoolRefusedError, PoolUnavailableError, ResultUnavailableError, TrainerError
from trainer.journal import Journal
from trainer.model.whole_network import draws
from trainer.pool.client import SolverClient
from trainer.pool.in_flight import Pending, Ticket
from trainer.pool.job_template import FREE, JobTemplate
from trainer.pool.line import Line
from trainer.pool.messages import Answer, JobKind, Stall, Verdict
from trainer.pool.packing import Packed, key_of, pack, share_of
from trainer.pool.portfolio import Portfolio, free_jobs

Reply = TypeVar("Reply")
logger = logging.getLogger("gdsolver")

LONG_POLL_S = 1.0
SHORTEST_POLL_S, LEAST_WAIT_S = 0.05, 0.25
WAITED = 0.8
"""Of the time that is left for all answers, the share that jobs get: the rest is for the way there and back."""

FORKED = "this process was forked from the one that made the Tunneller, and has no thread for it; make one here"
TOO_SLOW = 408
"""The gateway's status for a body that comes too slowly."""


@dataclass(frozen=True)
class _Stop:
    pass


@dataclass(frozen=True)
class _Abandon:
    why: str


@dataclass(frozen=True)
class _LookAtPool:
    pass


@dataclass(frozen=True, eq=False)
class _FindAgain:
    stall: Stall
    tickets: Sequence[Ticket]


@dataclass(frozen=True)
class _Cancel:
    job: str


Command = Stall | Verdict | _Abandon | _LookAtPool | _FindAgain | _Cancel | _Stop


@dataclass(eq=False)
class BackgroundWorker:
    """Flies one stall at a time; everything that may wait or fail happens on its daemon thread."""

    client: SolverClient
    template: JobTemplate
    journal: Journal
    line: Line
    portfolio: Portfolio = field(default_factory=Portfolio)
    idle: threading.Event = field(default_factory=threading.Event)
    _commands: "queue.SimpleQueue[Command]" = field(default_factory=queue.SimpleQueue)
    _arrived: deque[tuple[Ticket, Answer]] = field(default_factory=deque)
    _pending: list[Pending] = field(default_factory=list)
    _launched: int = 0
    _flown: int = 0
    _warned: bool = False
    _ending: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _forked: bool = False

    def __post_init__(self) -> None:
        WORKERS.add(self)
        finalize(self, self._over.set)  # at exit before what is older: a pool that ends with the program
        self.idle.set()
        self._thread = threading.Thread(target=self._run, name="gdsolver-tunneller", daemon=True)
        self._thread.start()

    def fork(self) -> None:
        """In a child of this process, which has no such thread: nothing is out, and nothing will be."""
        self._forked, self._pending, self._commands = True, [], queue.SimpleQueue()
        self.idle, self._ending = threading.Event(), threading.Event()
        self.idle.set()

    # --- called by the training thread; none of these waits -----------------------------------------------------------

    def launch(self, stall: Stall) -> None:
        """Take a stall to the pool; `idle` is clear until all its answers are there or given up."""
        if self._forked:
            self._failed(stall, FORKED)
            return
        self._launched = stall.number
        self.idle.clear()
        self._commands.put(stall)

    def report(self, verdict: Verdict) -> None:
        """Send a verdict when there is time."""
        self._commands.put(verdict)

    def look_at_pool(self) -> None:
        """See whether the pool is there, and say so if it is not."""
        self._commands.put(_LookAtPool())

    def arrived(self) -> list[Answer]:
        """The answers that came since the last call."""
        return [self._arrived.popleft()[1] for _ in range(len(self._arrived))]

    def tickets(self) -> list[Ticket]:
        """Of every job that is out, or whose answer was not taken yet."""
        # A job that comes in meanwhile is in both for a moment, never in none.
        out = [pending.ticket for pending in tuple(self._pending)] + [ticket for ticket, _ in tuple(self._arrived)]
        return list({ticket.job: ticket for ticket in out}.values())

    def find_again(self, stall: Stall, tickets: Sequence[Ticket]) -> None:
        """Wait for jobs that were posted before a crash; `stall` is their question as it would be put now."""
        if self._forked:
            self._failed(stall, FORKED)
            return
        self._launched = stall.number
        self.idle.clear()
        self._commands.put(_FindAgain(stall, tickets))

    def forget(self, ticket: Ticket, reason: str) -> None:
        """Cancel a job that was posted before a crash, because its answer cannot be read any more."""
        self.journal.add("failed", ticket.stall, job=ticket.job, detail=reason)
        self._commands.put(_Cancel(ticket.job))

    def abandon(self, why: str) -> None:
        """Cancel what is out, for a reason that users are told; `idle` is set when that is done."""
        if not self.idle.is_set():
            self._commands.put(_Abandon(why))

    def close(self, timeout: float) -> None:
        """Cancel what is out, send what is to be sent, and end the thread; wait at most `timeout` seconds for it."""
        self._ending.set()
        self._commands.put(_Stop())
        if not self._forked:
            self._thread.join(timeout)

    def warn(self, reason: str) -> None:
        """Say once that something does not work; later, or when the program ends, only to those who debug."""
        if self._warned or self._over.is_set():
            logger.debug("tunnelling failed again: %s", reason)
        else:
            logger.warning("training goes on without a tunnel; later stalls will try again: %s", reason)
        self._warned = True

    # --- on the background thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            command = self._next()
            going = not isinstance(command, _Stop)
            try:
                self._obey(command)
            except Exception as error:  # a bug, a client that was closed: nobody may be left waiting for this thread
                self._drop_all(f"{type(error).__name__}: {error}", command)

    def _next(self) -> "Command | None":
        """The next command; None when there is none but jobs are out."""
        if not self._pending:
            return self._commands.get()
        try:
            return self._commands.get_nowait()
        except queue.Empty:
            return None

    def _obey(self, command: "Command | None") -> None:
        match command:
            case None:
                self._poll()
            case Stall():
                self._fly(command)
            case _LookAtPool():
                self._look_at_pool()
            case _FindAgain():
                self._find_again(command.stall, command.tickets)
            case _Cancel():
                self._contact(partial(self.client.cancel, command.job))
            case Verdict():
                self._contact(partial(self.client.feedback, command.job, command.feedback))
            case _Abandon():
                self._cancel_all(command.why)
            case _:
                self._cancel_all()

    def _look_at_pool(self) -> None:
        if not self.client.ready():
            self.warn(f"no pool is ready at {self.client.url}; start one with `gdsolver-pool up`, or name its address")

    def _fly(self, stall: Stall) -> None:
        """Pack a stall's samples, and submit its jobs."""
        try:
            kinds = self._jobs(stall)
            # One worker may have to do all of them, one after the other.
            most_s = WAITED * stall.left_s / sum(share_of(kind) for kind in kinds)
            packed = (pack(self.template, stall, kind, number, most_s) for number, kind in enumerate(kinds))
            for data, together in itertools.groupby(packed, key=lambda one: one.data):
                self._submit(stall, data, list(together))
        except (CaptureError, ContractError) as error:
            self._failed(stall, f"no snapshot: {error}")
        except TrainerError as error:
            self._failed(stall, str(error))
        finally:
            self._flown = stall.number
            self._land()

    def _find_again(self, stall: Stall, tickets: Sequence[Ticket]) -> None:
        """Wait for jobs that were posted before a crash; their answers are read with what is known of the layer now."""
        try:
            for ticket in tickets:
                job = pack(self.template, stall, ticket.kind, ticket.number, most_s=math.inf)
                if job.parcel.projection is None:
                    now = time.monotonic()
                    self._pending.append(Pending(ticket, stall, job.parcel, job.spec, now, again=True))
                else:
                    self.forget(ticket, "found again, but its answer speaks of directions of samples that are gone")
        finally:
            self._flown = stall.number
            self._land()

    def _jobs(self, stall: Stall) -> Sequence[JobKind]:
        """What a stall is sent as: as many jobs as were asked for, or as the pool has idle workers."""
        count = self._free() if self.template.fanout == FREE else int(self.template.fanout)
        if stall.view.whole:
            return draws(last=stall.last, count=count)
        return list(self.portfolio.jobs(count))

    def _free(self) -> int:
        stats = self._reach(self.client.stats)
        return free_jobs(stats.slots, stats.running, stats.queued)

    def _submit(self, stall: Stall, data: bytes, jobs: Sequence[Packed]) -> None:
        """Send jobs that have one snapshot: it travels once."""
        if self._ending.is_set():
            return
        specs = [job.spec for job in jobs]
        ids = self._uploaded(data, specs)
        for job, job_id in zip(jobs, ids, strict=True):
            detail = f"layer {stall.turn!r}, radius {job.parcel.radius:.4g}"
            self.journal.add("submitted", stall.number, job=job_id, detail=detail)
            ticket = Ticket.of(job_id, stall, job.kind, job.number)
            self._pending.append(Pending(ticket, stall, job.parcel, job.spec, time.monotonic()))

    def _uploaded(self, data: bytes, specs: Sequence[JobSpec]) -> list[str]:
        """Post jobs on one snapshot and give their ids; how long that takes decides how much later jobs send."""
        key, begun, in_vain = key_of(data, specs), time.monotonic(), False
        try:
            if len(specs) == 1:
                return [self._reach(partial(self.client.solve, data, specs[0], key=key)).id]
            return [job.id for job in self._reach(partial(self.client.submit_batch, data, specs, key=key)).jobs]
        except PoolRefusedError as error:
            in_vain = error.status == TOO_SLOW
            raise
        finally:
            self.line.took(time.monotonic() - begun, in_vain=in_vain)

    def _poll(self) -> None:
        """Ask after each job in turn; a pool that does not answer is asked again, until patience ends."""
        # The more are out, the less each is waited for, so that no answer waits long for other jobs' ends.
        wait_s = max(LEAST_WAIT_S, LONG_POLL_S / len(self._pending))
        for pending in tuple(self._pending):
            begun = time.monotonic()
            try:
                status = self._reach(partial(self.client.job, pending.job, wait=wait_s))
                if status.state.terminal:
                    self._collect(pending, status)
            except PoolUnavailableError as error:
                logger.debug("no word of job %s: %s", pending.job, error)
            except TrainerError as error:
                self._give_up(pending, str(error))
            if pending in self._pending and begun - pending.since > self.template.patience_s:
                self._contact(partial(self.client.cancel, pending.job))
                self._give_up(pending, f"no answer within {self.template.patience_s:g} s")
            if pending in self._pending:  # of jobs that ended together none waits for another one's pause
                self._ending.wait(max(0.0, SHORTEST_POLL_S - (time.monotonic() - begun)))
        self._land()

    def _collect(self, pending: Pending, status: JobStatus) -> None:
        if status.result is None:
            self._give_up(pending, status.error.detail if status.error else f"job {status.state}")
            return
        candidate = self._reach(partial(self.client.result, pending.job))
        values, (before, after, doubt) = pending.parcel.unpack(candidate), pending.figures(candidate)
        result, stall, ticket = candidate.result, pending.stall, pending.ticket
        self.journal.add(
            "answered",
            stall.number,
            job=pending.job,
            before=before,
            after=after,
            detail=f"{result.objective.name}, {result.status}{doubt}",
            **self._time_out(pending),
        )
        samples = None if pending.again else pending.parcel.captured.chosen
        answer = Answer(stall, ticket.kind, pending.job, values, pending.spec.goal, result, samples)
        self._arrived.append((ticket, answer))
        self._pending.remove(pending)

    def _time_out(self, pending: Pending) -> dict[str, Any]:
        """How long a job has been out: seconds, and optimizer steps meanwhile."""
        return {
            "seconds": time.monotonic() - pending.since,
            "gd_steps": self.journal.gd_step - pending.ticket.gd_step,
        }

    def _give_up(self, pending: Pending, reason: str) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
        self._failed(pending.stall, reason, pending.job)

    def _failed(self, stall: Stall, reason: str, job: str | None = None) -> None:
        self.journal.add("failed", stall.number, job=job, detail=reason)
        self.warn(reason)

    def _reach(self, call: Callable[[], Reply]) -> Reply:
        """Make a call to the pool, and note whether it could be reached."""
        try:
            answer = call()
        except PoolUnavailableError as error:
            self.journal.pool_lost = True
            self.warn(str(error))
            raise
        except (PoolRefusedError, ResultUnavailableError):
            self.journal.pool_lost = False
            raise
        self.journal.pool_lost = False
        return answer

    def _contact(self, call: Callable[[], object]) -> None:
        """Make a call whose failure does not matter."""
        try:
            self._reach(call)
        except TrainerError as error:
            logger.debug("not delivered: %s", error)

    def _cancel_all(self, why: str | None = None) -> None:
        for pending in self._pending:
            self._contact(partial(self.client.cancel, pending.job))
            self.journal.add("cancelled", pending.stall.number, job=pending.job, detail=why, **self._time_out(pending))
        self._pending.clear()
        self._land()

    def _drop_all(self, reason: str, command: "Command | None") -> None:
        """Give up what is out, and what the command that failed would have sent or found."""
        for pending in tuple(self._pending):
            self._give_up(pending, reason)
        if isinstance(command, Stall):
            self._failed(command, reason)
        if isinstance(command, _FindAgain):
            failed = {event.job for event in self.journal.events if event.kind == "failed"}
            for ticket in command.tickets:
                if ticket.job not in failed:
                    self.forget(ticket, reason)
        self.warn(reason)
        self._land()

    def _land(self) -> None:
        """Say that nothing is out any more, unless a stall is still waiting for its flight."""
        if not self._pending and self._flown == self._launched:
            self.idle.set()


WORKERS: WeakSet[BackgroundWorker] = WeakSet()
"""All of this process."""


def _fork() -> None:
    for worker in tuple(WORKERS):
        worker.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)
