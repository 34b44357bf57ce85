"""A pool of a tunneller's own, for `client="local"`: started on cores that training leaves free, ended with it."""

import os
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from trainer.pool.client import SolverClient
from trainer.pool.embedded import Command, embedded_pool, pool_command

Local = Literal["local"]
LOCAL: Local = "local"


class OwnPool:
    """A pool with its client; it ends by `close()`, with whoever holds it, or with this process.

    Starting takes some seconds. Raises EmbeddedPoolError where its packages are missing or it does not start.
    """

    def __init__(self, workers: int, command: Command = pool_command) -> None:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gdsolver-", ignore_cleanup_errors=True))
            url = stack.enter_context(embedded_pool(Path(folder) / "pool.log", workers, command))
            self.client = stack.enter_context(SolverClient(url))
            self._end = weakref.finalize(self, stack.pop_all().close)

    def close(self) -> None:
        """End it; again does nothing."""
        self._end()


def free_cores(threads: int) -> int:
    """How many of this process's cores so many training threads leave; one at least."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there - threads)
