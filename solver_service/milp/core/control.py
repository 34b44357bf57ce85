"""The line between a running solve and whoever watches it: stop from outside, incumbents and a log from inside."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Self

from solver_service.milp.core.moved import Moved

PASSING_S = 0.5
"""Lines that tell of small steps leave so much time between them."""


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


def _as_it_is(value: float) -> float:
    return value


class Control:
    """Stops a solve from another thread and hands its incumbents out; `stop` may be called at any time, by anyone.

    `on_text` takes the solve's log: lines of figures, and a solver's own words, never anything of the data.
    """

    def __init__(
        self,
        on_incumbent: Callable[[IncumbentFound], None] = _ignore,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self.on_incumbent = on_incumbent
        self._on_text = on_text
        self._in_own_units: Callable[[float], float] = _as_it_is
        self._spoke = -math.inf
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

    @property
    def is_logged(self) -> bool:
        """Whether anybody keeps the log: without one, solvers need not write theirs."""
        return self._on_text is not None

    def write(self, text: str) -> None:
        """Add text to the log as it is. A log that cannot be kept is no reason to end a solve."""
        if self._on_text is not None:
            with contextlib.suppress(Exception):
                self._on_text(text)

    def say(
        self, what: str, *, objective: float | None = None, bound: float | None = None, passing: bool = False
    ) -> None:
        """Add a line to the log: seconds since the solve began, what was done, and the best values after it.

        A `passing` one is left out where another line came just before.
        """
        if self._on_text is None:
            return
        elapsed = self.elapsed
        if passing and elapsed - self._spoke < PASSING_S:
            return
        self._spoke = elapsed
        said = [
            f"{name} {self._in_own_units(value):.6g}"
            for name, value in (("objective", objective), ("bound", bound))
            if value is not None
        ]
        self.write(f"{elapsed:9.2f} s  {what}{'; ' if said else ''}{', '.join(said)}\n")

    def heard_by(
        self,
        on_incumbent: Callable[[IncumbentFound], None],
        in_own_units: Callable[[float], float] = _as_it_is,
    ) -> Self:
        """The same solve's control, stop, clock and log shared, with somebody else who takes incumbents.

        `in_own_units` takes values that are said within back to those of this control.
        """
        found, outer = copy(self), self._in_own_units
        found.on_incumbent = on_incumbent
        found._in_own_units = lambda value: outer(in_own_units(value))
        return found
