"""Keeps a tunneller's events and counters, written from the training thread and the background thread alike."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from trainer import story
from trainer.course import Course
from trainer.events import Event, Kind, Summary
from trainer.model.wrappers import unwrap_optimizer
from trainer.restoring.postponed import after_put_back
from trainer.scores import Mode
from trainer.speaking import logger

OnEvent = Callable[[Event], object]
ENDS = ("answered", "failed", "cancelled")
"""Kinds of event after which a job is not out any more."""


class Journal:
    """Events in the order in which they happened, stamped with the time, `step()` calls and optimizer steps.

    `on_event` is told each one at once, on the thread on which it happened; should it fail, it is not told again.
    """

    def __init__(self, optimizer: Optimizer, on_event: OnEvent | None = None) -> None:
        self.step = 0
        self.gd_step = 0
        self.course: Course | None = None
        """Of the scores that the loop gave."""
        self.pool_lost = False
        self.longest_step_s = 0.0
        self.capture_s = 0.0
        self.trial_s = 0.0
        self.observe_s = 0.0
        self._begun = time.monotonic()
        self._events: list[Event] = []
        self._on_event = on_event
        self._lock = threading.RLock()  # re-entrant: a listener may look at the history
        self.before_step: Callable[[], object] = lambda: None
        """Called before each of the optimizer's steps."""
        self.after_step: Callable[[], object] = lambda: None
        """Called after each of them."""
        self.next_step: Callable[[], object] | None = None
        """Called once, after the next one."""
        self.follow(optimizer)

    def follow(self, optimizer: Optimizer) -> None:
        """Count the steps of this one from now on, and hear of others'."""
        self._optimizer = optimizer
        self._others: dict[int, Optimizer] = {}
        self._foreign: dict[int, ReferenceType[Optimizer]] = {}
        self._stray: Optimizer | None = None
        self._counted = -1
        self._hooks = (
            optimizer.register_step_pre_hook(self._call),
            optimizer.register_step_post_hook(self._count),
            register_optimizer_step_post_hook(self._hear),
        )

    def _hear(self, optimizer: Optimizer, *_: Any) -> None:
        """As few words as possible: this is every optimizer's every step.

        Those that move nothing of the same are not held: with them their models would stay in memory.
        """
        if optimizer is self._optimizer or id(optimizer) in self._others:
            return
        known = self._foreign.get(id(optimizer))
        if known is not None and known() is optimizer:
            return
        if _held(self._optimizer).isdisjoint(_held(optimizer)):
            self._foreign[id(optimizer)] = ref(optimizer)
        else:
            self._others[id(optimizer)] = optimizer

    def strays(self) -> Optimizer | None:
        """Another optimizer that has moved the same parameters since the last call, while the one followed stood still.

        It is told until that steps again. One that wraps it does not count, nor does one that takes turns with it
        between two calls.
        """
        others, self._others = self._others, {}
        self._foreign.clear()  # by now they may have taken up others' parameters
        still, self._counted = self.gd_step == self._counted, self.gd_step
        if not still:
            self._stray = None
        elif others:
            strange = (other for other in others.values() if unwrap_optimizer(other) is not self._optimizer)
            self._stray = next(strange, self._stray)
        return self._stray

    def _call(self, *_: Any) -> None:
        self.before_step()

    def _count(self, *_: Any) -> None:
        self.gd_step += 1
        if self.next_step is not None:
            call, self.next_step = self.next_step, None
            call()
        self.after_step()

    @property
    def age_s(self) -> float:
        """Seconds since the tunneller began."""
        return time.monotonic() - self._begun

    def add(self, kind: Kind, stall: int, **details: Any) -> None:
        """Note one event; `details` are Event's further fields."""
        with self._lock:
            event = Event(kind, self.age_s, self.step, self.gd_step, stall, **details)
            self._events.append(event)
            self._tell(event)

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:  # what a listener writes meanwhile would be put back with a pass's doings
            after_put_back(partial(self._call_listener, event))

    def _call_listener(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # a full disk must stop neither the training nor the jobs
            self._on_event = None
            logger.warning("on_event failed and is told nothing more: %s: %s", type(error).__name__, error)

    def note(self, score: float, mode: Mode) -> None:
        """Take the score of a check."""
        self.course = self.course.then(score, self.step, mode) if self.course else Course.begun(score, self.step)

    def resume(self, events: Sequence[Event], age_s: float, course: Course | None = None) -> None:
        """Go on after these events, of a run that was `age_s` seconds old and whose score went so."""
        with self._lock:
            self._events, self.course = list(events), course
            self._begun = time.monotonic() - age_s

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that happened so far."""
        with self._lock:
            return tuple(self._events)

    def summary(
        self,
        validate_s: float,
        validations: int,
        settings: story.InForce | None = None,
        *,
        alike: bool = False,
    ) -> Summary:
        """The figures so far; `settings` are those that the advice is about.

        `alike`: validation gives what the loop hands over as the score, so that both are points of one course.
        """
        events = self.events
        kinds = [event.kind for event in events]
        course, mode = self.course, settings.mode if settings else None
        if course is not None and alike and mode is not None:
            course = story.judged(course, events, mode)
        return Summary(
            stalls=kinds.count("stall"),
            polishes=kinds.count("polish"),
            jobs=kinds.count("submitted"),
            answers=kinds.count("answered"),
            adopted=len(story.standing(events)),
            rejected=kinds.count("rejected"),
            refused=kinds.count("refused"),
            failed=kinds.count("failed"),
            pool_lost=self.pool_lost,
            gd_steps_during_jobs=_steps_during_jobs(events),
            longest_step_ms=1000 * self.longest_step_s,
            capture_s=self.capture_s,
            trial_s=self.trial_s,
            validate_s=validate_s,
            validations=validations,
            observe_s=self.observe_s,
            gained=story.gained(events, mode),
            declined=story.declined(events),
            advice=story.advice(events, pool_lost=self.pool_lost, settings=settings, course=course),
            course=course,
        )

    def close(self) -> None:
        """Stop counting the optimizer's steps."""
        for hook in self._hooks:
            hook.remove()


def _held(optimizer: Optimizer) -> set[int]:
    return {id(part) for group in optimizer.param_groups for part in group["params"]}


def _steps_during_jobs(events: tuple[Event, ...]) -> int:
    """Optimizer steps done while at least one job was out: per stall, from the first job's post to the last end."""
    out: dict[int, int] = {}
    back: dict[int, int] = {}
    for event in events:
        if event.kind == "submitted":
            out[event.stall] = min(event.gd_step, out.get(event.stall, event.gd_step))
        elif event.kind in ENDS:
            back[event.stall] = max(event.gd_step, back.get(event.stall, event.gd_step))
    return sum(back[stall] - out[stall] for stall in out.keys() & back.keys())
