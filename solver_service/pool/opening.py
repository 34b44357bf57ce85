"""What the commands that ask a pool's Redis directly have in common: how it is named, opened, and how they refuse."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from shared.output import flushed
from shared.plain import plain
from solver_service.errors import ServiceError
from solver_service.pool.running import redis_url_of
from solver_service.settings import Settings

if TYPE_CHECKING:
    from solver_service.store import Store

RedisUrl = Annotated[
    str | None, typer.Option(help="redis://HOST:PORT/DB or unix:///PATH [default: local Redis, or GDSOLVER_REDIS_URL]")
]
DataDir = Annotated[
    Path | None, typer.Option(help="The --data-dir of a running `gdsolver-pool up`, in place of --redis-url.")
]


PIPE_WIDTH = 250
UNNAMED = "name the pool's Redis with --redis-url, or with --data-dir the folder that `gdsolver-pool up` told of"


@contextlib.contextmanager
def clear_words() -> Iterator[None]:
    """Around a command: what goes wrong ends it with one clear line."""
    try:
        with flushed():
            yield
    except BrokenPipeError:
        raise  # whoever reads the output has seen enough
    except (ServiceError, OSError, ValueError) as error:
        refuse(str(error))


def terminal() -> Console:
    """Where tables go; a pipe or a file has no width of its own, and cuts nothing off."""
    return Console(markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def columns(*names: str, whole: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table that cuts nothing off: where it is narrow, cells have several lines, or are left `whole`."""
    return Table(*(Column(name, overflow="fold", no_wrap=name in whole) for name in names), title=title)


@contextlib.contextmanager
def opened(redis_url: str | None, data_dir: Path | None) -> Iterator["Store"]:
    """Open the store that the options name; what goes wrong ends the command with one clear line."""
    from solver_service.store import Store  # noqa: PLC0415 (needs Redis' client)

    url = redis_url
    try:
        url = redis_url_of(data_dir) if data_dir is not None else redis_url
        settings = Settings() if url is None else Settings(redis_url=url)
        store = Store.open(settings)
        try:
            yield store
        finally:
            store.close()
    except ServiceError as error:
        named = url is not None or data_dir is not None or "GDSOLVER_REDIS_URL" in os.environ
        refuse(str(error) if named else f"{error}; {UNNAMED}")
    except ValidationError as error:
        refuse(f"setting {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}")


def refuse(message: str) -> NoReturn:
    """End the command with one line that says why."""
    typer.echo(plain(f"gdsolver-pool: {message}", keep="\n"), err=True)
    raise typer.Exit(1)
