"""Reading a large body without keeping other requests waiting."""

import asyncio

from fastapi import Request
from starlette.concurrency import run_in_threadpool

AT_ONCE = 32
"""So many chunks (64 KiB or a little more each) are given back before others have their turn."""
BLOCK_BYTES = 33 * 1024 * 1024
"""Chunks that come to so much are joined: glibc gives what is over 32 MiB pages of its own, and they go back with it.

On its heap one small thing behind them keeps all chunks of a body, and then they go back at once, in 20 ms.
"""


async def read_body(request: Request) -> bytes:
    """Read the body, whose length the guard bounds.

    Joining 256 MiB takes 0.3 s and giving their memory back 30 ms, in which the event loop would serve nobody: the one
    is done in a thread (it releases the GIL), the other in small steps.
    """
    blocks: list[bytes] = []
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size >= BLOCK_BYTES:
                blocks.append(await run_in_threadpool(b"".join, chunks))
                await _give_back(chunks, AT_ONCE)
                size = 0
        parts = [*blocks, *chunks]
        return b"".join(parts) if len(parts) <= AT_ONCE and not blocks else await run_in_threadpool(b"".join, parts)
    finally:
        parts = []
        await _give_back(chunks, AT_ONCE)
        await _give_back(blocks, 1)


async def _give_back(parts: list[bytes], at_once: int) -> None:
    """Forget the parts, a few at a time."""
    while parts:
        del parts[-at_once:]
        await asyncio.sleep(0)
