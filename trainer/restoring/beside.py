"""Other threads of the program that are at work beside a pass: what they write in the meantime is theirs, and stays."""

import gc
import os
import sys
import threading
from collections.abc import Collection, Iterator
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
        for one in moved:
            _begin(paths, self._then.get(one, ()), now.get(one, ()), _thread(one))
        paths.follow()
        return paths


def _at_work() -> dict[int, tuple[FrameType, ...]]:
    """Of each other thread that has code of the user's to run, the frames that it is in, the innermost first."""
    own = threading.get_ident()
    stacks = {one: tuple(_stack(frame)) for one, frame in _frames().items() if one != own}
    return {one: stack for one, stack in stacks.items() if any(map(_is_users, stack)) or _to_do(_thread(one))}


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


def _thread(number: int) -> Any:
    return threading._active.get(number)  # type: ignore[attr-defined]


def _to_do(thread: Any) -> list[Any]:
    """What a thread has been given to run, and has not begun: as a timer's function."""
    parts = [getattr(thread, name, None) for name in ("_target", "function")]
    return [part for part in parts if part is not None and is_users(getattr(part, "__module__", None))]


def _asleep(then: tuple[FrameType, ...] | None, now: tuple[FrameType, ...] | None) -> bool:
    """Whether a thread has been in one and the same call of code that is not the user's."""
    return bool(then and now and then[0] is now[0] and not _is_users(now[0]))


def _begin(paths: Paths, then: Collection[FrameType], now: Collection[FrameType], thread: Any) -> None:
    for frame in (*then, *now):
        if _is_users(frame):
            paths.begin(frame)
    for part in (*_to_do(thread), *(getattr(thread, "_args", None) or ()), getattr(thread, "args", None)):
        paths.begin_at(part)
