"""A bound on bytes in memory that all keys share, of which each key may take as much as leaves room for another one."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

PER_FREE_BYTE = 2
"""A key may hold twice what is free: alone 2/3 of all, one of n 2/(2n+1) each, so that something is always left."""
LOOK_AGAIN_S = 0.05


class Shares:
    """Who holds how many of the bytes; for one event loop, without locks.

    The rule is the dynamic threshold of shared switch buffers (Choudhury and Hahne, 1998): a limit that shrinks with
    what is free needs no number of keys, and no number of silent keys takes everything.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Bytes that all hold together."""
        return self._held.total()

    def take(self, who: str, size: int) -> bool:
        """Take so many bytes more, if the share allows it."""
        free = self._most - self.held - size
        if free < 0 or self._held[who] + size > PER_FREE_BYTE * free:
            return False
        self._held[who] += size
        return True

    def give(self, who: str, size: int) -> None:
        """Give bytes back."""
        self._held[who] -= size
        if self._held[who] <= 0:
            del self._held[who]

    @contextlib.asynccontextmanager
    async def holding(self, who: str, size: int) -> AsyncIterator[None]:
        """Hold so many bytes; wait for them as long as it takes."""
        while not self.take(who, size):
            await asyncio.sleep(LOOK_AGAIN_S)
        try:
            yield
        finally:
            self.give(who, size)


class Upload:
    """The bytes of one request's body, held from their arrival until nobody needs them any more."""

    def __init__(self, shares: Shares, sender: str) -> None:
        self._shares = shares
        self._holder = sender
        self._held = 0

    def add(self, size: int) -> bool:
        """Hold so many bytes more; False, holding nothing more, where the share does not allow it."""
        taken = self._shares.take(self._holder, size)
        self._held += size if taken else 0
        return taken

    def belongs_to(self, owner: str) -> None:
        """Count under the owner's name what comes from now on, once the key has been looked up.

        What came before that, of a body that is read first, is given back and taken anew; it may be over the share.
        """
        before, self._holder = self._holder, owner
        if self._held:
            self._shares.give(before, self._held)
            self._held = self._held if self._shares.take(owner, self._held) else 0

    def done(self) -> None:
        """Give everything back."""
        self._shares.give(self._holder, self._held)
        self._held = 0
