"""Processes of a test's own, which may end between any two looks at them."""

import psutil


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs or is stopped; one that only waits to be reaped has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Its words; none when it has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie is one, too
        return []


def living_children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """Children of a process that have not ended."""
    return [child for child in psutil.Process(pid).children(recursive=recursive) if is_alive(child)]
