"""A bound on what a worker process may allocate during one job: a job that outgrows it fails, its worker does not.

`limits.memory_mb` is the solvers' own, and the graceful one; a process needs two to three times of it. RLIMIT_DATA is
the backstop behind: it counts private writable memory, which follows what is resident closely (773 MB against 668 in a
large SCIP job), while RLIMIT_AS counts address space that libraries and allocators merely reserve. An allocation past
it fails inside SCIP, HiGHS or numpy, all of which report it; without it the kernel would kill the whole worker.
"""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from shared.contracts import JobSpec

MEBIBYTE = 1024 * 1024
TIMES = 3
MARGIN_MB = 256
"""What the process needs besides the model: libraries that are loaded late, thread stacks, the snapshot itself."""


@contextlib.contextmanager
def bounded(memory_mb: int, *, ceiling_mb: int | None = None) -> Iterator[None]:
    """Allow the block three times `memory_mb`, and never more than `ceiling_mb` in all; does nothing off Linux."""
    used = _data_bytes()
    if used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + (TIMES * memory_mb + MARGIN_MB) * MEBIBYTE
    if ceiling_mb is not None:
        wanted = min(wanted, ceiling_mb * MEBIBYTE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def affordable(spec: JobSpec, *, ceiling_mb: int | None) -> JobSpec:
    """The spec with a `memory_mb` that fits the ceiling, so that the solver stops in good order, with its incumbent."""
    if ceiling_mb is None or TIMES * spec.limits.memory_mb <= ceiling_mb:
        return spec
    limits = spec.limits.model_copy(update={"memory_mb": ceiling_mb // TIMES})
    return spec.model_copy(update={"limits": limits})


def _data_bytes() -> int | None:
    """Private writable memory of this process; None where the system does not say."""
    if sys.platform != "linux":
        return None
    pages = Path("/proc/self/statm").read_text().split()[5]  # with the stack
    return int(pages) * resource.getpagesize()
