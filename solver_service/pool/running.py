"""A file in the data folder that says where the embedded pool on it can be reached, for as long as it runs."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from solver_service.errors import ServiceError

FILE = "pool.json"
LOCK = "pool.lock"
KEYS = "keys-in-use"
"""Present once a key was stored for the pool, whatever becomes of its Redis: it is never keyless again."""
LOOK_S = 0.1


class NoPoolError(ServiceError):
    """No pool runs on the data folder."""


class FolderTakenError(ServiceError):
    """Another pool runs on the data folder."""


@contextlib.contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for this process alone: two Redis servers on one file would lose each other's jobs.

    The lock ends with the process, however it ends. Raises FolderTakenError.
    """
    with (data_dir / LOCK).open("w") as file:
        if not _locked(file, fcntl.LOCK_EX):
            time.sleep(LOOK_S)  # perhaps somebody only looks
            if not _locked(file, fcntl.LOCK_EX):
                raise FolderTakenError(f"another pool runs on {data_dir}; stop it, or choose another --data-dir")
        yield


def _locked(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _ended(data_dir: Path) -> bool:
    """Whether no pool runs on the folder, whatever a killed one left there; False where that cannot be told."""
    try:
        with (data_dir / LOCK).open() as file:
            return _locked(file, fcntl.LOCK_SH)
    except OSError:
        return False


@contextlib.contextmanager
def announced(data_dir: Path, *, redis_url: str, url: str) -> Iterator[None]:
    """Keep the file there while the block runs; this user alone may read it."""
    path = data_dir / FILE
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"redis_url": redis_url, "url": url}, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def redis_url_of(data_dir: Path) -> str:
    """Where the Redis of the pool on this folder is; raises NoPoolError."""
    none = f"no pool runs on {data_dir}; start it with `gdsolver-pool up --data-dir {data_dir}`"
    if _ended(data_dir):
        raise NoPoolError(none)
    try:
        return str(json.loads((data_dir / FILE).read_text())["redis_url"])
    except (OSError, ValueError, KeyError) as error:
        raise NoPoolError(none) from error


def mark_keys(data_dir: Path) -> None:
    """Remember outside Redis that the pool on this folder has keys."""
    (data_dir / KEYS).touch(mode=0o600)


def keys_marked(data_dir: Path) -> bool:
    """Whether the pool on this folder ever had keys."""
    return (data_dir / KEYS).exists()
