"""How much of a kind of work goes on at once: few in all, fewer of one key, and of what is large one.

However many wait: without turns a hundred of one key would be done before another key's only one.
"""

import asyncio
from collections import Counter

MOST, MOST_PER_KEY = 16, 4
LARGE_BYTES = 1024 * 1024
"""JSON of this length takes many times as much memory to parse, and a snapshot a second to check and hand over."""


class Turns:
    """Turns at what takes memory and time; who waits for one holds no thread. For one event loop."""

    def __init__(self, most: int = MOST, most_per_key: int = MOST_PER_KEY) -> None:
        self._most_per_key = most_per_key
        self._all = asyncio.Semaphore(most)
        self._large = asyncio.Semaphore(1)
        self._keys: dict[str, asyncio.Semaphore] = {}
        self._wanted: Counter[str] = Counter()

    def turn(self, owner: str, size: int) -> "_Turn":
        """A turn at a body of so many bytes, to be entered. A key waits in its own line first, and fills no other."""
        return _Turn(self, f"{owner} {size >= LARGE_BYTES}", large=size >= LARGE_BYTES)


class _Turn:
    """One turn; a class, because entering a generator takes three times as long."""

    def __init__(self, turns: Turns, line: str, *, large: bool) -> None:
        self._turns = turns
        self._line = line
        self._large = large

    async def __aenter__(self) -> None:
        turns = self._turns
        turns._wanted[self._line] += 1
        try:
            own = turns._keys.setdefault(self._line, asyncio.Semaphore(1 if self._large else turns._most_per_key))
            await own.acquire()
            try:
                await (turns._large if self._large else turns._all).acquire()
            except BaseException:
                own.release()
                raise
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        turns = self._turns
        (turns._large if self._large else turns._all).release()
        turns._keys[self._line].release()
        self._leave()

    def _leave(self) -> None:
        turns = self._turns
        turns._wanted[self._line] -= 1
        if not turns._wanted[self._line]:
            del turns._wanted[self._line], turns._keys[self._line]
