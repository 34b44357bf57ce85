"""How much submitting goes on at once: few in all, fewer of one key, and of large bodies one, however many wait."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

MOST, MOST_PER_KEY = 16, 4
LARGE_BYTES = 1024 * 1024
"""JSON of this length takes many times as much memory to parse, and a snapshot a second to check and hand over."""


class Turns:
    """Turns at what takes memory and time; who waits for one holds no thread. For one event loop."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MOST)
        self._large = asyncio.Semaphore(1)
        self._keys: dict[str, asyncio.Semaphore] = {}
        self._wanted: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def turn(self, owner: str, size: int) -> AsyncIterator[None]:
        """Take a turn at a body of so many bytes. A key waits in its own line first, and never fills another's."""
        large = size >= LARGE_BYTES
        line = f"{owner} {large}"
        self._wanted[line] += 1
        own = self._keys.setdefault(line, asyncio.Semaphore(1 if large else MOST_PER_KEY))
        try:
            async with own, self._large if large else self._all:
                yield
        finally:
            self._wanted[line] -= 1
            if not self._wanted[line]:
                del self._wanted[line], self._keys[line]
