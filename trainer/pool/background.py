"""The background thread: takes a stalled model to the pool and brings the answers back, while training goes on."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from shared.contracts import Feedback, JobResult, JobStatus
from shared.errors import ContractError
from trainer.adoption.validation import write_state
from trainer.errors import CaptureError, PoolRefusedError, PoolUnavailableError, ResultUnavailableError, TrainerError
from trainer.journal import Journal
from trainer.pool.client import SolverClient
from trainer.pool.job_template import JobTemplate
from trainer.snapshots.capture import Parcel, capture
from trainer.snapshots.samples import Source
from trainer.snapshots.whole_network import Draw, boxes, drawn_anew, draws
from trainer.stalls.policy import AUTO, LayerView, choose
from trainer.stalls.survey import survey

Reply = TypeVar("Reply")
logger = logging.getLogger("trainer.tunneller")

LONG_POLL_S = 1.0
SHORTEST_POLL_S = 0.05
RADIUS_FACTORS = (1.0, 2.0, 0.5, 4.0, 0.25)
"""Of the jobs that one stall fans out into; they take turns."""


@dataclass(frozen=True, eq=False)
class Stall:
    """One stall: its number, the model's state then (on the CPU), the counters and the tunneller's age, and what to do.

    `radius_of` gives the half-width for a layer's mean |weight|. `layer` is the one to tunnel, or AUTO: then the policy
    chooses by `turns` and the layers' relative `gradients`. `last` says that training is over.
    """

    number: int
    state: dict[str, Tensor]
    step: int
    gd_step: int
    age_s: float
    radius_of: Callable[[float], float]
    layer: str
    last: bool = False
    turns: Mapping[str, int] = field(default_factory=dict)
    gradients: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answer:
    """A job's answer as parameters of the model, by name.

    `turn` is the name under which its failure counts; `hidden` says that the final layer is still to be solved.
    """

    stall: Stall
    job: str
    turn: str
    hidden: bool
    whole: bool
    parameters: dict[str, Tensor]
    result: JobResult


@dataclass(frozen=True)
class Verdict:
    """What became of a job's answer, on its way to the pool."""

    job: str
    feedback: Feedback


@dataclass(frozen=True)
class _Stop:
    pass


@dataclass(frozen=True)
class _Abandon:
    pass


Command = Stall | Verdict | _Abandon | _Stop


@dataclass(frozen=True, eq=False)
class _Pending:
    job: str
    stall: Stall
    parcel: Parcel
    view: LayerView | None
    since: float
    gd_step: int


@dataclass
class BackgroundWorker:
    """Flies one stall at a time; everything that may wait, fail or compute happens on its daemon thread."""

    shadow: nn.Module
    source: Source
    client: SolverClient
    template: JobTemplate
    journal: Journal
    idle: threading.Event = field(default_factory=threading.Event)
    _commands: "queue.SimpleQueue[Command]" = field(default_factory=queue.SimpleQueue)
    _arrived: "queue.SimpleQueue[Answer]" = field(default_factory=queue.SimpleQueue)
    _pending: list[_Pending] = field(default_factory=list)
    _launched: int = 0
    _flown: int = 0
    _warned: bool = False
    _ending: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.idle.set()
        self._thread = threading.Thread(target=self._run, name="gdsolver-tunneller", daemon=True)
        self._thread.start()

    # --- called by the training thread; none of these waits -----------------------------------------------------------

    def launch(self, stall: Stall) -> None:
        """Take a stall to the pool; `idle` is clear until all its answers are there or given up."""
        self._launched = stall.number
        self.idle.clear()
        self._commands.put(stall)

    def report(self, verdict: Verdict) -> None:
        """Send a verdict when there is time."""
        self._commands.put(verdict)

    def arrived(self) -> list[Answer]:
        """The answers that came since the last call."""
        answers: list[Answer] = []
        with contextlib.suppress(queue.Empty):
            while True:
                answers.append(self._arrived.get_nowait())
        return answers

    def abandon(self) -> None:
        """Cancel what is out; `idle` is set when that is done."""
        if not self.idle.is_set():
            self._commands.put(_Abandon())

    def close(self, timeout: float) -> None:
        """Cancel what is out, send what is to be sent, and end the thread; wait at most `timeout` seconds for it."""
        self._ending.set()
        self._commands.put(_Stop())
        self._thread.join(timeout)

    # --- on the background thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not isinstance(command := self._next(), _Stop):
            try:
                self._obey(command)
            except Exception as error:  # a bug or a surprise here must not leave anybody waiting for this thread
                self._drop_all(f"{type(error).__name__}: {error}")
        self._cancel_all()

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
            case Verdict():
                self._contact(partial(self.client.feedback, command.job, command.feedback))
            case _:
                self._cancel_all()

    def _fly(self, stall: Stall) -> None:
        """Capture the stall and submit its jobs."""
        try:
            view = self._choose(stall)
            for number, draw in enumerate(self._draws(view, stall)):
                parcel = self._prepare(stall, view, number, draw)
                self._submit(stall, parcel, view, number, share=draw.share if draw else 1.0)
        except (CaptureError, ContractError) as error:
            self._failed(stall, f"no snapshot: {error}")
        except TrainerError as error:
            self._failed(stall, str(error))
        except Exception as error:  # the user's data set or model may raise anything; training has to go on
            self._failed(stall, f"no snapshot: {type(error).__name__}: {error}")
        finally:
            self._flown = stall.number
            self._land()

    def _choose(self, stall: Stall) -> LayerView | None:
        """What to tunnel by the policy; None where the layer is given."""
        write_state(self.shadow, stall.state)
        if stall.layer != AUTO:
            return None
        generator = np.random.default_rng([self.template.seed, stall.number])
        template = self.template
        views = survey(
            self.shadow,
            self.source,
            generator,
            gradients=stall.gradients,
            tail_moves=template.tail_radius != 0,
            whole=template.whole,
        )
        return choose(views, stall.turns)

    def _draws(self, view: LayerView | None, stall: Stall) -> list[Draw | None]:
        """The jobs of a stall; None where the radius says all about one."""
        fanout = self.template.fanout
        return [*draws(last=stall.last, count=fanout)] if view and view.whole else [None] * fanout

    def _prepare(self, stall: Stall, view: LayerView | None, number: int, draw: Draw | None) -> Parcel:
        """Capture a layer, and pack it up."""
        generator = np.random.default_rng([self.template.seed, stall.number, number])
        plan = replace(self.template.plan, layer=view.name if view else stall.layer)
        if view:
            plan = replace(plan, samples=view.samples(plan.samples))
        captured = capture(self.shadow, self.source, plan, generator)
        note = {"run": self.template.run, "stall": stall.number}
        if draw:
            if draw.anew:
                captured = replace(captured, snapshot=drawn_anew(captured.snapshot, generator))
            return captured.pack_whole(boxes(captured.snapshot, draw.width), note)
        radius = stall.radius_of(captured.mean_weight) * RADIUS_FACTORS[number % len(RADIUS_FACTORS)]
        return captured.pack(radius, note, bias_radius=view.bias_radius(radius) if view else None)

    def _submit(self, stall: Stall, parcel: Parcel, view: LayerView | None, number: int, *, share: float) -> None:
        spec = self.template.spec(
            parcel, stall=stall.number, draw=number, step=stall.gd_step, age_s=stall.age_s, share=share
        )
        if self._ending.is_set():
            return
        status = self._reach(partial(self.client.solve, parcel.snapshot, spec))
        name = view.turn if view else parcel.captured.block.layer.name
        detail = f"layer {name!r}, radius {parcel.radius:.4g}"
        self.journal.add("submitted", stall.number, job=status.id, detail=detail)
        self._pending.append(_Pending(status.id, stall, parcel, view, time.monotonic(), self.journal.gd_step))

    def _poll(self) -> None:
        """Ask after each job in turn; a pool that does not answer is asked again, until patience ends."""
        for pending in tuple(self._pending):
            begun = time.monotonic()
            try:
                status = self._reach(partial(self.client.job, pending.job, wait=LONG_POLL_S))
                if status.state.terminal:
                    self._collect(pending, status)
            except PoolUnavailableError as error:
                logger.debug("no word of job %s: %s", pending.job, error)
            except TrainerError as error:
                self._give_up(pending, str(error))
            if pending in self._pending and begun - pending.since > self.template.patience_s:
                self._contact(partial(self.client.cancel, pending.job))
                self._give_up(pending, f"no answer within {self.template.patience_s:g} s")
            self._ending.wait(max(0.0, SHORTEST_POLL_S - (time.monotonic() - begun)))
        self._land()

    def _collect(self, pending: _Pending, status: JobStatus) -> None:
        if status.result is None:
            self._give_up(pending, status.error.detail if status.error else f"job {status.state}")
            return
        candidate = self._reach(partial(self.client.result, pending.job))
        block, whole = pending.parcel.captured.block, pending.view is not None and pending.view.whole
        answer = Answer(
            stall=pending.stall,
            job=pending.job,
            turn=pending.view.turn if pending.view else block.layer.name,
            hidden=bool(block.tail) and not whole,
            whole=whole,
            parameters=pending.parcel.unpack(candidate),
            result=candidate.result,
        )
        report = candidate.result.objective
        self._pending.remove(pending)
        self.journal.add(
            "answered",
            pending.stall.number,
            job=pending.job,
            before=report.start,
            after=report.final,
            detail=f"{report.name}, {candidate.result.status}",
            **self._time_out(pending),
        )
        self._arrived.put(answer)

    def _time_out(self, pending: _Pending) -> dict[str, Any]:
        """How long a job has been out: seconds, and optimizer steps meanwhile."""
        return {
            "seconds": time.monotonic() - pending.since,
            "gd_steps": self.journal.gd_step - pending.gd_step,
        }

    def _give_up(self, pending: _Pending, reason: str) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
        self._failed(pending.stall, reason, pending.job)

    def _failed(self, stall: Stall, reason: str, job: str | None = None) -> None:
        self.journal.add("failed", stall.number, job=job, detail=reason)
        self._warn(reason)

    def _reach(self, call: Callable[[], Reply]) -> Reply:
        """Make a call to the pool, and note whether it could be reached."""
        try:
            answer = call()
        except PoolUnavailableError as error:
            self.journal.pool_lost = True
            self._warn(str(error))
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

    def _warn(self, reason: str) -> None:
        if self._warned:
            logger.debug("tunnelling failed again: %s", reason)
        else:
            logger.warning("training goes on without a tunnel; later stalls will try again: %s", reason)
        self._warned = True

    def _cancel_all(self) -> None:
        for pending in self._pending:
            self._contact(partial(self.client.cancel, pending.job))
            self.journal.add("cancelled", pending.stall.number, job=pending.job, **self._time_out(pending))
        self._pending.clear()
        self._land()

    def _drop_all(self, reason: str) -> None:
        for pending in tuple(self._pending):
            self._give_up(pending, reason)
        self._warn(reason)
        self._land()

    def _land(self) -> None:
        """Say that nothing is out any more, unless a stall is still waiting for its flight."""
        if not self._pending and self._flown == self._launched:
            self.idle.set()
