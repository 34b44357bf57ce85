"""The commands `gdsolver-pool backup` and `restore`: a pool in a file, and back."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from solver_service.pool.opening import DataDir, RedisUrl, clear_words, opened, refuse


@clear_words()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it holds data and belongs to this user alone.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Write all that a pool keeps into a file, while it works: jobs, snapshots, results, logs, keys and counters.

    Example: gdsolver-pool backup pool-monday.backup --data-dir ./pool
    """
    from solver_service.backup.take import take  # noqa: PLC0415 (needs Redis' client)

    if file.exists() and not file.is_file():
        refuse(f"{file} is a folder or a device; name a file for the backup")
    try:
        with opened(redis_url, data_dir) as store, _replacing(file) as writing:
            kept = take(store, writing)
    except OSError as error:
        refuse(f"{file} cannot be written: {error}")
    typer.echo(
        f"{kept.jobs} jobs ({kept.unfinished} of them unfinished), {kept.snapshots} snapshots and "
        f"{kept.api_keys} keys: {file.stat().st_size:,} bytes in {file}"
    )
    if kept.left_out:
        typer.echo(f"{kept.left_out} records are not as a pool writes them and were left out: their names are above")


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """A new file beside it, that takes its name once it is whole: until then, and if it fails, the old one is there."""
    number, part = tempfile.mkstemp(prefix="gdsolver-backup-", suffix=".part", dir=file.parent)
    try:
        with os.fdopen(number, "w+b") as writing:
            yield writing
            writing.flush()
            os.fsync(writing.fileno())
        Path(part).replace(file)
    finally:
        Path(part).unlink(missing_ok=True)


@clear_words()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` has written.")],
    force: Annotated[
        bool, typer.Option("--force", help="Add to a Redis that is not empty; what is there already stays.")
    ] = False,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Bring a backup into an empty Redis. Jobs that ran are queued again, and go on from their incumbents.

    Example: gdsolver-pool restore pool-monday.backup --data-dir ./new-pool
    """
    from solver_service.backup.restore import restore as bring_back  # noqa: PLC0415 (needs Redis' client)

    try:
        with opened(redis_url, data_dir) as store, file.open("rb") as reading:
            kept = bring_back(store, reading, force=force)
    except OSError as error:
        refuse(f"{file} cannot be read: {error}")
    typer.echo(
        f"{kept.jobs} jobs ({kept.unfinished} of them queued), {kept.snapshots} snapshots and {kept.api_keys} keys "
        f"are back"
    )
