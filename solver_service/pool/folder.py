"""The folder in which an embedded pool keeps its things: this user's alone, and nobody else's files are touched."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from solver_service.errors import ServiceError
from solver_service.pool.running import FILE, KEYS, LOCK, exclusive

REDIS_LOG = "redis.log"
OWN = frozenset({FILE, KEYS, LOCK, REDIS_LOG, "appendonlydir", "appendonly.aof", "dump.rdb"})
"""What a pool and its Redis, of any version, write there; a folder that has one of these is a pool's."""
EMPTY = frozenset({"lost+found"})
"""What a file system that holds nothing yet has in it."""


class ForeignFolderError(ServiceError):
    """The folder holds things, and none of them is a pool's."""


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Have the folder for this process alone and, as all that is made from now on, for this user alone.

    Raises FolderTakenError and ForeignFolderError, with nothing changed.
    """
    os.umask(0o077)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(folder)
    with exclusive(folder):
        _make_private(folder)
        yield


def _require_own(folder: Path) -> None:
    found = {path.name for path in folder.iterdir() if not _holds_nothing(path)}
    if found and not found & OWN:
        raise ForeignFolderError(
            f"{folder} holds files that are no pool's ({min(found)!r}); name a new or an empty folder with --data-dir"
        )


def _holds_nothing(path: Path) -> bool:
    """Such as the log that a shell has just opened: `up --data-dir pool > pool/pool.log`."""
    return path.name in EMPTY or (path.is_file() and not path.stat().st_size)


def _make_private(folder: Path) -> None:
    """Only what is a pool's: whatever else lies there keeps its permissions."""
    mine = [path for name in OWN for path in (folder / name, *(folder / name).rglob("*"))]
    for path in (folder, *(it for it in mine if it.exists() and not it.is_symlink())):
        path.chmod(0o700 if path.is_dir() else 0o600)
