"""Who has fallen silent: judged by one who was awake all the while, on a clock that nobody can set."""

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_PER_LOOK = 1.5
LONGEST_GAP = 3.0
"""Looks come every `every_s`: one counts for at most 1.5 of them, and after a gap of three all watching begins anew."""


class Vigil:
    """Watches signs of life, which may be anything that changes; pure but for what it remembers.

    A machine that was frozen, a Redis that was paused or a watcher that was busy leaves a gap between two looks. What
    was silent meanwhile may have been frozen, too, so everybody gets a whole life after a gap. Clocks are not compared
    with one another: `now` is the watcher's own monotonic clock, and of a sign only its change matters.
    """

    def __init__(self, *, life_s: float, every_s: float) -> None:
        self._life_s = life_s
        self._every_s = every_s
        self._looked: float | None = None
        self._silent: dict[Hashable, tuple[Any, float]] = {}

    def look(self, now: float, signs: Mapping[K, Any]) -> list[K]:
        """Take in everybody's sign; returns those that have been silent for a whole life while this one was awake."""
        gap = None if self._looked is None else now - self._looked
        self._looked = now
        if gap is None or gap > LONGEST_GAP * self._every_s:
            self._silent = {}
        awake = 0.0 if gap is None else min(max(gap, 0.0), MOST_PER_LOOK * self._every_s)
        before, self._silent = self._silent, {}
        for one, sign in signs.items():
            known, silent = before.get(one, (None, -1.0))
            # -1: never seen before, so that even a sign of None begins its own life here.
            self._silent[one] = (sign, silent + awake if silent >= 0 and known == sign else 0.0)
        return [one for one in signs if self._silent[one][1] >= self._life_s]

    def forget(self) -> None:
        """Begin anew: one who could not look, or did not have to, knows nothing."""
        self._looked = None
