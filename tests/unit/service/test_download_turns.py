"""Downloads take turns: a hundred at once are answered a few pieces at a time, and leave turns for other keys."""

import asyncio
import threading
import time
from typing import Any

from solver_service.gateway.download import MOST, MOST_PER_KEY, PIECE_BYTES, Downloads, sending

SIZE = 4 * PIECE_BYTES


class Reader:
    """A blob, and how many of its pieces were read at once at the most."""

    def __init__(self) -> None:
        self.at_once = self.most = self.pieces = 0
        self._lock = threading.Lock()

    def __call__(self, begin: int, end: int) -> bytes:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.pieces += 1
        time.sleep(0.0005)
        with self._lock:
            self.at_once -= 1
        return bytes(end - begin)


async def sent(reader: Reader, owner: str, downloads: Downloads) -> int:
    """The bytes of a whole answer."""
    response: Any = sending((SIZE, reader), owner, downloads, media_type="text/plain")
    return sum([len(piece) async for piece in response.body_iterator])


def test_few_pieces_are_fetched_at_once_and_another_key_does_not_wait_for_all_of_them() -> None:
    """However many downloads of one key there are: its line is its own."""

    async def scenario() -> tuple[list[int], int, int]:
        downloads, greedy, modest = Downloads(), Reader(), Reader()
        calls = [asyncio.ensure_future(sent(greedy, "greedy", downloads)) for _ in range(100)]
        await asyncio.sleep(0)
        assert await sent(modest, "modest", downloads) == SIZE
        before = greedy.pieces
        sizes = await asyncio.gather(*calls)
        assert downloads.held == 0
        return sizes, greedy.most, before

    sizes, most, before = asyncio.run(scenario())
    assert sizes == [SIZE] * 100
    assert most == MOST_PER_KEY
    assert before < 100


def test_all_keys_together_have_few_pieces_at_once() -> None:
    """As many as there are turns, however many keys ask."""

    async def scenario() -> int:
        downloads, reader = Downloads(), Reader()
        await asyncio.gather(*(sent(reader, f"key {number}", downloads) for number in range(30)))
        return reader.most

    assert asyncio.run(scenario()) == MOST
