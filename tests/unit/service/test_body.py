"""Reading bodies whole, however many chunks they come in."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import cast

import pytest
from fastapi import Request

from solver_service.gateway.body import BLOCK_BYTES, read_body
from tests.conftest import ROOT


class Stream:
    """A request whose body comes in chunks of so many bytes."""

    def __init__(self, chunks: int, size: int) -> None:
        self._chunks = chunks
        self._size = size

    async def stream(self) -> AsyncIterator[bytes]:
        for number in range(self._chunks):
            yield bytes([number % 256]) * self._size


@pytest.mark.parametrize(
    ("chunks", "size"), [(0, 10), (1, 10), (32, 10), (1000, 10), (3, BLOCK_BYTES), (50, 1_000_000)]
)
def test_a_body_is_read_whole(chunks: int, size: int) -> None:
    """In order and complete, whether it is joined here or in a thread."""
    found = asyncio.run(read_body(cast(Request, Stream(chunks, size))))
    assert found == b"".join(bytes([number % 256]) * size for number in range(chunks))


RESIDENT = """
import asyncio, os, sys
from solver_service.gateway.body import read_body

class Stream:
    async def stream(self):
        for number in range(4000):
            yield bytes([1]) * 65_536
            kept.append(bytes(600))  # behind it on the heap, and there for longer
        if sys.argv[1] == "refused":
            raise PermissionError

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

async def others():
    while True:
        seen.append(resident_mb())
        await asyncio.sleep(0)

async def scenario():
    other = asyncio.ensure_future(others())
    try:
        await read_body(Stream())
    except PermissionError:
        pass
    await asyncio.sleep(0)
    other.cancel()

kept, seen = [], []
asyncio.run(scenario())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_refused_body_goes_back_in_steps() -> None:
    """256 MiB in chunks: it does go back, whatever was kept meanwhile, and others have a turn in between."""
    steps = "assert max(seen) - seen[-1] > 180, seen[-1]; assert max(map(float.__sub__, seen, seen[1:])) < 60"
    command = [sys.executable, "-c", RESIDENT + steps, "refused"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_collections_of_all_that_lives_are_rare() -> None:
    """Half a million things that live, as many as thousands of connections have, are no reason for one."""
    program = """
import gc
from solver_service.gateway.server import collect_all_rarely
collect_all_rarely()
full = []
gc.callbacks.append(lambda phase, info: full.append(info) if phase == "start" and info["generation"] == 2 else None)
alive = [[] for _ in range(500_000)]
assert not full, len(full)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
