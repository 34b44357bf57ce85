"""Sends blobs piece by piece: what is in memory does not grow with their size, nor with clients that do not read."""

import re
from collections.abc import AsyncIterator, Callable, Mapping

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from solver_service.errors import StoreUnavailableError
from solver_service.gateway.shares import Shares
from solver_service.gateway.turns import Turns

AT_ONCE_BYTES = 64 * 1024
"""A blob of this size is one piece; uvicorn buffers as much of any response."""
PIECE_BYTES = 128 * 1024
HELD_BYTES = 2 * PIECE_BYTES
"""What one download holds: the piece that is on its way, and the next one."""
MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024
"""What all of them may hold; a key that has its share of it waits."""
MOST, MOST_PER_KEY = 4, 2
"""So many pieces are fetched and sent at once: what else the event loop does then waits for no more than these."""

RANGE = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?")

Reader = tuple[int, Callable[[int, int], bytes]]


class Downloads:
    """All that are on their way to clients: what they hold of the memory, and whose piece is next."""

    def __init__(self) -> None:
        self.shares = Shares(MAX_DOWNLOAD_BYTES)
        self.turns = Turns(MOST, MOST_PER_KEY)

    @property
    def held(self) -> int:
        """Bytes that all hold together."""
        return self.shares.held


class NoSuchRangeError(ValueError):
    """A range that has none of the blob's bytes."""


def span_of(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [begin, end) that a Range header asks for (RFC 9110); None for all of them.

    All are sent where there is no header, and for what need not be understood: other units, several ranges. Raises
    NoSuchRangeError for a range behind the end.
    """
    found = RANGE.fullmatch((header or "").replace(" ", "").lower())
    if found is None or not (found[1] or found[2]):
        return None
    if found[1] is None:  # so many of the last bytes
        begin, end = max(0, size - int(found[2])), size
    else:
        begin, end = int(found[1]), size if found[2] is None else min(size, int(found[2]) + 1)
        if found[2] is not None and int(found[2]) < begin:
            return None
    if begin >= end:
        raise NoSuchRangeError(header)
    return begin, end


def part_of(blob: Reader, begin: int, end: int) -> Reader:
    """A blob that is a part [begin, end) of another one."""
    _, read = blob
    return end - begin, lambda first, last: read(begin + first, begin + last)


def sending(
    blob: Reader,
    owner: str,
    downloads: Downloads,
    *,
    media_type: str,
    headers: Mapping[str, str] | None = None,
    status_code: int = 200,
) -> Response:
    """Make the response that holds a blob, as its reader gives it (size, read)."""
    size, read = blob
    if size <= AT_ONCE_BYTES:
        return Response(read(0, size), status_code, media_type=media_type, headers=dict(headers or {}))

    async def pieces() -> AsyncIterator[bytes]:
        async with downloads.shares.holding(owner, HELD_BYTES):
            for begin in range(0, size, PIECE_BYTES):
                end = min(size, begin + PIECE_BYTES)
                async with downloads.turns.turn(owner, end - begin):
                    piece = await run_in_threadpool(read, begin, end)
                if len(piece) < end - begin:  # it has expired meanwhile: the client sees that bytes are missing
                    raise StoreUnavailableError("a blob ended while it was sent")
                yield piece

    length = {"Content-Length": str(size), **(headers or {})}
    return StreamingResponse(pieces(), status_code, media_type=media_type, headers=length)
