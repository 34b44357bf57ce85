"""The line between a running solve and whoever watches it: stop from outside, incumbents from inside."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Self

from solver_service.milp.core.moved import Moved


@dataclass(frozen=True, eq=False)
class IncumbentFound:
    """A better solution: seconds since the solve began, the recomputed objective, the bound so far, the weights."""

    t_s: float
    objective: float
    bound: float
    nodes: int
    moved: Moved


def _ignore(_: IncumbentFound) -> None:
    pass


class Control:
    """Stops a solve from another thread and hands its incumbents out; `stop` may be called at any time, by anyone."""

    def __init__(self, on_incumbent: Callable[[IncumbentFound], None] = _ignore) -> None:
        self.on_incumbent = on_incumbent
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []
        self._began = time.monotonic()

    @property
    def stopped(self) -> bool:
        """True once somebody asked for an end; long phases look at it between steps."""
        return self._stopped.is_set()

    @property
    def elapsed(self) -> float:
        """Seconds since this solve began."""
        return time.monotonic() - self._began

    def stop(self) -> None:
        """End the solve soon, keeping its incumbent."""
        self._stopped.set()
        with self._lock:
            for interrupt in self._interrupts:
                interrupt()

    @contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Register the solver's own interrupt while it runs; fires at once if a stop is already asked for."""
        with self._lock:
            self._interrupts.append(interrupt)
            if self.stopped:
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)

    def heard_by(self, on_incumbent: Callable[[IncumbentFound], None]) -> Self:
        """The same solve's control, stop and clock shared, with somebody else who takes incumbents."""
        found = copy(self)
        found.on_incumbent = on_incumbent
        return found
