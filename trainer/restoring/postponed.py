"""Holds back what is not a pass's own doing until all is put back: handlers of signals, and listeners' calls."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, cast

from trainer.restoring.named import breaks_off
from trainer.restoring.own_code import root_of

AT_ONCE = frozenset({"torch"})
"""Whose handlers are called as ever: that of data loaders says that a worker process has died."""

SIGNALS = sorted(map(int, signal.valid_signals()))
"""Which there are; to ask takes as long as much else of a look."""


class _Calls:
    """Calls that wait while anything of the user's is to be put back, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal's handler may come in between
        self._open, self._calling = 0, False
        self._waiting = deque[Callable[[], object]]()

    def begin(self) -> None:
        with self._lock:
            self._open += 1

    def end(self) -> None:
        with self._lock:
            self._open = max(0, self._open - 1)  # a child that was forked meanwhile begins with none
        self._make()

    def add(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)
        self._make()

    def _make(self) -> None:
        """Make those that wait, one after another, if nothing is to be put back; on one thread at a time."""
        while (call := self._next()) is not None:
            try:
                call()
            finally:
                self._calling = False

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._open or self._calling or not self._waiting:
                return None
            self._calling = True
            return self._waiting.popleft()

    def fork(self) -> None:
        """In a child of this process, which has none of the other threads."""
        self._lock, self._open, self._calling = threading.RLock(), 0, False
        self._waiting.clear()


CALLS = _Calls()
"""Of this process: a pass of one tunneller may put back what another one's listener writes."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CALLS.fork)


def after_put_back(call: Callable[[], object]) -> None:
    """Make a call at once, or as soon as no pass or validation is on any thread, after those that wait already."""
    CALLS.add(call)


@contextmanager
def postponed() -> Iterator[None]:
    """Until its end signals' handlers of the user's are not called, nor what `after_put_back` is given.

    A handler runs on the main thread in the middle of whatever is done there. What it sets, `self.stop = True`, would
    be taken for a pass's own doing. One that raises an error, or ends the program, breaks a pass off as ever: so does
    Ctrl-C.
    """
    on_main = threading.current_thread() is threading.main_thread()
    held = [_Held(number) for number in SIGNALS if _is_users(number)] if on_main else []
    come = list[_Held]()
    for one in held:
        one.begin(come)
    CALLS.begin()
    try:
        yield
    finally:
        for one in held:
            one.end()
        with ExitStack() as stack:  # one that raises an error keeps no other from being called
            for one in reversed(come):
                stack.callback(one.handler, one.number, sys._getframe())
            CALLS.end()


def _is_users(number: int) -> bool:
    """Whether a signal has a handler in Python that may write anywhere, and goes back to where it came."""
    handler: Any = signal.getsignal(number)
    if not callable(handler) or handler is signal.default_int_handler:
        return False
    code = getattr(handler, "__code__", None)
    if code is not None and breaks_off(code):
        return False
    return root_of(getattr(handler, "__module__", None) or type(handler).__module__) not in AT_ONCE


class _Held:
    """A signal whose handler is called later; a child that is forked meanwhile has its own copy, and calls it."""

    def __init__(self, number: int) -> None:
        self.number, self.handler, self._process = number, cast(Any, signal.getsignal(number)), os.getpid()

    def begin(self, come: "list[_Held]") -> None:
        """Only note from now on that the signal has come."""
        self._come = come
        signal.signal(self.number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self._come.append(self)
        else:
            self.handler(number, frame)

    def end(self) -> None:
        """Set the handler again, unless somebody has set another one meanwhile."""
        if signal.getsignal(self.number) == self._note:
            signal.signal(self.number, self.handler)
