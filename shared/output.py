"""What a command prints is out when it ends, or it ends with an error of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def flushed() -> Iterator[None]:
    """Flush what was printed; OSError where nobody takes it, and nothing is left for Python to complain about."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            _discard()
            raise


def _discard() -> None:
    with suppress(OSError, ValueError):  # a stream of a test's own has no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
