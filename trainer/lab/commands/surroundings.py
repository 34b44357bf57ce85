"""What all commands need around them: where to print, errors in clear words, a client of the right pool."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from shared.errors import ContractError
from shared.output import flushed
from shared.plain import plain
from trainer.errors import PoolRefusedError, PoolUnavailableError, TaskError, TrainerError
from trainer.pool.client import DEFAULT_URL, SolverClient
from trainer.pool.embedded import embedded_pool

# A pipe or file has no width of its own: wide enough for the table.
out = Console(soft_wrap=True, markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)


def say(words: str) -> None:
    """Print a line of words, of which some may be names that others gave."""
    out.print(plain(words))


@contextlib.contextmanager
def clear_words() -> Iterator[None]:
    """Turn errors into one clear line: exit code 2 for wrong input, 1 for a failure, 130 for Ctrl-C."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="gdsolver: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with flushed():
            yield
    except (TaskError, ContractError, ValueError) as error:
        raise _exit(2, str(error)) from error
    except PoolRefusedError as error:
        raise _exit(2 if error.status in (404, 422) else 1, str(error)) from error
    except TrainerError as error:
        raise _exit(1, str(error)) from error
    except BrokenPipeError:
        raise  # whoever reads the output has seen enough
    except OSError as error:
        raise _exit(1, str(error)) from error
    except KeyboardInterrupt as error:
        raise _exit(
            130, str(error) or "interrupted; nothing was kept here, and a job that was posted goes on"
        ) from error


def _exit(code: int, message: str) -> typer.Exit:
    err.print(plain(f"gdsolver: {message}", keep="\n"))
    return typer.Exit(code)


@contextlib.contextmanager
def pool_client(
    gateway: str | None,
    api_key: str | None,
    *,
    local: bool,
    workers: int,
    folder: Path,
    needed: bool,
    goes_on: bool = True,
) -> Iterator[SolverClient | None]:
    """A client of the pool that the options name, or of one's own; None if no pool is needed and none is named.

    `goes_on`: the command can do without an answer from it; else PoolUnavailableError alone says what is amiss.
    """
    if local:
        err.print("starting a pool ...")
        try:
            with embedded_pool(folder / "pool.log", workers) as url, SolverClient(url) as client:
                yield client
        except KeyboardInterrupt as error:
            said = "interrupted; nothing was kept here, and the pool that was started has ended with its jobs"
            raise KeyboardInterrupt(said) from error
    elif gateway and needed:
        with SolverClient(gateway, api_key) as client:
            _look_at(client, gateway, goes_on=goes_on)
            yield client
    elif needed:
        raise TaskError("name a pool's address, or start one of your own with --local", field="--gateway")
    else:
        yield None


def _look_at(client: SolverClient, gateway: str, *, goes_on: bool) -> None:
    ready = client.ready()
    if ready or not goes_on:
        with contextlib.suppress(*([PoolUnavailableError] if goes_on else [])):
            client.jobs(limit=1)  # a key that opens nothing is told now, and not after a training
    if not ready:
        what = "tunnels begin when it is" if goes_on else "jobs wait until it is"
        err.print(plain(f"gdsolver: the pool at {gateway} is not ready now; {what}"))


@contextlib.contextmanager
def existing_pool(gateway: str | None, api_key: str | None) -> Iterator[SolverClient]:
    """A client of a pool that is there already: the one that is named, or this machine's."""
    url = gateway or DEFAULT_URL
    with pool_client(url, api_key, local=False, workers=1, folder=Path(), needed=True, goes_on=False) as client:
        assert client is not None
        yield client


def write(path: Path | None, content: dict[str, Any]) -> None:
    """Write JSON where --json asks for it."""
    if path is not None:
        from trainer.lab.report import write_json  # noqa: PLC0415

        write_json(path, content)


def writable(**options: Path | None) -> None:
    """Raise TaskError, before the work and not after it, for the first option that names no file that can be written.

    Folders that lack are made. An option is named as its keyword: `json` is --json.
    """
    for option, path in options.items():
        if path is not None:
            field = f"--{option}"
            make_folder(path.parent, field)
            try:
                if path.is_dir():
                    raise TaskError(f"{path} is a folder; name a file", field=field)
                _check_access(path if path.exists() else path.parent, path, field)
            except OSError as error:
                raise TaskError(f"{path} cannot be written: {error.strerror}", field=field) from error


def make_folder(folder: Path, field: str = "--out") -> None:
    """Make the folder for what is to be written, before the work and not after it; TaskError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaskError(f"{folder} cannot be made: {error.strerror}", field=field) from error
    _check_access(folder, folder, field)


@contextlib.contextmanager
def folder_to_fill(folder: Path, field: str = "--out") -> Iterator[None]:
    """Make a folder; where the work ends with an error and has put nothing into it, it is not left behind."""
    made: list[Path] = []
    with contextlib.suppress(OSError):  # of a name that is too long; the next line says so
        made = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder, field)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # one that holds something stays, and so do those above it
            for each in made:
                each.rmdir()
        raise


def _check_access(there: Path, wanted: Path, field: str) -> None:
    """Raise TaskError if this user may not write what is there already, for what is wanted."""
    if not os.access(there, os.W_OK):
        raise TaskError(f"{wanted} cannot be written: permission denied; name another place", field=field)
