"""Reading bodies whole, however many chunks they come in."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from fastapi import Request

from solver_service.gateway.body import read_body


class Stream:
    """A request whose body comes in chunks of 10 bytes."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    async def stream(self) -> AsyncIterator[bytes]:
        for number in range(self._chunks):
            yield bytes([number % 256]) * 10


@pytest.mark.parametrize("chunks", [0, 1, 32, 1000])
def test_a_body_is_read_whole(chunks: int) -> None:
    """In order and complete, whether it is joined here or in a thread."""
    found = asyncio.run(read_body(cast(Request, Stream(chunks))))
    assert found == b"".join(bytes([number % 256]) * 10 for number in range(chunks))
