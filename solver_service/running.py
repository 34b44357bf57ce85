"""A file in the data folder that says where the embedded pool on it can be reached, for as long as it runs."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from solver_service.errors import ServiceError

FILE = "pool.json"


class NoPoolError(ServiceError):
    """No pool runs on the data folder."""


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
    """Where the Redis of the pool on this folder is."""
    try:
        return str(json.loads((data_dir / FILE).read_text())["redis_url"])
    except (OSError, ValueError, KeyError) as error:
        raise NoPoolError(f"no pool runs on {data_dir}; start it with `gdsolver-pool up --data-dir`") from error
