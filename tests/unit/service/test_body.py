"""Reading bodies: whole, or no further than they are wanted."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from fastapi import Request

from solver_service.gateway.body import read_body


class Stream:
    """A request whose body comes in chunks of 10 bytes, and that counts how many were taken."""

    def __init__(self, chunks: int) -> None:
        self.taken = 0
        self._chunks = chunks

    async def stream(self) -> AsyncIterator[bytes]:
        for number in range(self._chunks):
            self.taken += 1
            yield bytes([number % 256]) * 10


@pytest.mark.parametrize("chunks", [0, 1, 32, 1000])
def test_a_body_is_read_whole(chunks: int) -> None:
    """In order and complete, whether it is joined here or in a thread."""
    found = asyncio.run(read_body(cast(Request, Stream(chunks))))
    assert found == b"".join(bytes([number % 256]) * 10 for number in range(chunks))


def test_more_than_is_wanted_is_not_read() -> None:
    """Reading stops with the first chunk that goes over the limit."""
    stream = Stream(1000)
    assert len(asyncio.run(read_body(cast(Request, stream), most=25))) == 30
    assert stream.taken == 3
