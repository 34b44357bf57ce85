"""What a command prints is out when it ends, or it ends with an error of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


@contextmanager
def flushed() -> Iterator[None]:
    """Flush what was printed; OSError where nobody takes it, and nothing is left for Python to complain about."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            discard(sys.stdout)
            raise


def discard(stream: TextIO) -> None:
    """Have nobody take what a stream holds, and what it is still given."""
    with suppress(OSError, ValueError):  # a stream of a test's own has no file behind it
        nobody = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nobody, stream.fileno())
        finally:
            os.close(nobody)
