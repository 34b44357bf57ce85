"""Sends blobs piece by piece: what is in memory does not grow with their size, nor with clients that do not read."""

from collections.abc import AsyncIterator, Callable, Mapping

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from solver_service.errors import StoreUnavailableError
from solver_service.gateway.shares import Shares

AT_ONCE_BYTES = 64 * 1024
"""A blob of this size is one piece; uvicorn buffers as much of any response."""
PIECE_BYTES = 128 * 1024
HELD_BYTES = 2 * PIECE_BYTES
"""What one download holds: the piece that is on its way, and the next one."""
MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024
"""What all of them may hold; a key that has its share of it waits."""

Reader = tuple[int, Callable[[int, int], bytes]]


def sending(
    blob: Reader, owner: str, shares: Shares, *, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Make the response that holds a blob, as its reader gives it (size, read)."""
    size, read = blob
    if size <= AT_ONCE_BYTES:
        return Response(read(0, size), media_type=media_type, headers=dict(headers or {}))

    async def pieces() -> AsyncIterator[bytes]:
        async with shares.holding(owner, HELD_BYTES):
            for begin in range(0, size, PIECE_BYTES):
                end = min(size, begin + PIECE_BYTES)
                piece = await run_in_threadpool(read, begin, end)
                if len(piece) < end - begin:  # it has expired meanwhile: the client sees that bytes are missing
                    raise StoreUnavailableError("a blob ended while it was sent")
                yield piece

    length = {"Content-Length": str(size), **(headers or {})}
    return StreamingResponse(pieces(), media_type=media_type, headers=length)
