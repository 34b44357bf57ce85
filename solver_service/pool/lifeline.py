"""Ties a child process to its parent's life: `python -m solver_service.pool.lifeline COMMAND...`.

On Linux the kernel kills the child as soon as its parent is gone, even by SIGKILL. Elsewhere there is no such tie,
and children end with an orderly stop of the parent alone.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended just before
        os.kill(os.getpid(), signal.SIGKILL)


def no_core_dumps() -> None:
    """Leave no image of this process or its children behind a crash: it would hold snapshots and keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Become the command that the arguments name, tied to the parent."""
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
