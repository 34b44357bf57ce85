"""Other threads of the program that are at work beside a pass: what they write in the meantime is theirs, and stays."""

import gc
import os
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any

from trainer.restoring.own_code import is_users
from trainer.restoring.paths import Paths
from trainer.speaking import logger

_SAID = set[str]()
"""Names that were told of."""
_LOOKING = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOOKING.acquire, after_in_parent=_LOOKING.release, after_in_child=_LOOKING.release)


class Beside:
    """The threads that may run code of the user's, as they are before a pass; what they may write into after it.

    A thread that has been waiting in one call of Python's own all the while has written nothing. Of the others all
    counts as theirs that their code gets at by the names in it: who wrote what is in no object.
    """

    def __init__(self) -> None:
        self._then = _at_work()
        self._changed = set[str]()

    def wrote(self, owner: object, name: str | None = None, told: str | None = None) -> bool:
        """Whether what has changed may be another thread's doing: an object, or what it has under a name.

        `told` is the name by which a pass knows it, if that is another one.
        """
        if self._paths is None or not self._paths.holds(owner, name):
            return False
        self._changed.update(filter(None, [told or name]))
        return True

    def tell(self, names: Collection[str]) -> None:
        """Say once of each name that a pass's code has, too, that what has changed under it was left as it is."""
        for name in sorted(self._changed.intersection(names) - _SAID):
            _SAID.add(name)
            logger.warning(
                "another thread was at work while the model or its validation was run, and both may change %r: it is "
                "left as it is, so that nothing of the thread's is lost; what the run itself wrote there stays, too",
                name,
            )

    @cached_property
    def _paths(self) -> Paths | None:
        """What the threads get at that were at work, if any were."""
        now = _at_work()
        known = {**self._then, **now}
        moved = [one for one in known if not _asleep(self._then.get(one), now.get(one))]
        if not moved:
            return None
        paths = Paths()
        for place in (places[one] for places in (self._then, now) for one in moved if one in places):
            place.begin(paths)
        paths.follow()
        return paths


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a thread is: the frames, the innermost first, and what it has been given to run."""

    stack: tuple[FrameType, ...]
    given: tuple[Any, ...]

    @property
    def own(self) -> list[FrameType]:
        """The frames of the user's own code."""
        return [frame for frame in self.stack if _is_users(frame)]

    def begin(self, paths: Paths) -> None:
        """Follow the code that it runs, or is to run."""
        for frame in self.own:
            paths.begin(frame)
        for part in self.given:
            paths.begin_at(part)


def _at_work() -> dict[int, _Place]:
    """Where each other thread is that has code of the user's to run."""
    own = threading.get_ident()
    found = {one: _Place(tuple(_stack(frame)), _given(one)) for one, frame in _frames().items() if one != own}
    return {one: place for one, place in found.items() if place.given or place.own}


def _frames() -> dict[int, FrameType]:
    """What each thread runs; without the garbage collector, in which Python before 3.12 waits for ever (gh-106883)."""
    with _LOOKING:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collecting:
                gc.enable()


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_users(frame: FrameType) -> bool:
    return is_users(frame.f_globals.get("__name__"))


def _given(number: int) -> tuple[Any, ...]:
    """A function of the user's that a thread has been given, as a timer, with its arguments; nothing is asked of it."""
    thread = threading._active.get(number)  # type: ignore[attr-defined]
    known = {} if thread is None else vars(thread)
    called = [known[name] for name in ("_target", "function") if known.get(name) is not None]
    if not any(is_users(getattr(part, "__module__", None)) for part in called):
        return ()
    return (*called, known.get("_args"), known.get("args"))


def _asleep(then: _Place | None, now: _Place | None) -> bool:
    """Whether a thread has been in one and the same call of code that is not the user's."""
    return bool(then and now and then.stack[0] is now.stack[0] and not _is_users(now.stack[0]))
