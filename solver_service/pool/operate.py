"""Commands for whoever runs a pool: `status`, `pause`, `drain` and `resume`, straight from its Redis."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from solver_service.errors import StoreRefusedError, StoreUnavailableError
from solver_service.pool.opening import DataDir, RedisUrl, clear_words, opened, refuse, terminal

if TYPE_CHECKING:
    from solver_service.store import Store
    from solver_service.store.operation import Mode

REFRESH_S, AWAY_S = 1.0, 60.0


@clear_words()
def status(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print it once, and end; always so where no terminal shows it.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write it to this file as well, once.")] = None,
) -> None:
    """Show workers, queue, running jobs and last results, until Ctrl-C.

    Example: gdsolver-pool status --data-dir ./pool
    """
    from solver_service.pool.status import look, render  # noqa: PLC0415 (needs Redis' client)

    with opened(redis_url, data_dir) as store:
        pool = look(store)
        console = terminal()
        if once or json is not None or not console.is_terminal:
            if json is not None:
                _write(json, pool.model_dump_json(indent=2) + "\n")
            console.print(render(pool))
            return
        with contextlib.suppress(KeyboardInterrupt), Live(render(pool), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_S)
                with contextlib.suppress(StoreUnavailableError):  # what was seen last stays until Redis is back
                    live.update(render(look(store)), refresh=True)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        refuse(f"--json: {file} cannot be written: {error.strerror}")


@clear_words()
def pause(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """Let no further job begin: those at work end, submissions wait in the queue until `resume`.

    Example: gdsolver-pool pause --data-dir ./pool
    """
    from solver_service.store.operation import Mode  # noqa: PLC0415 (needs Redis' client)

    with opened(redis_url, data_dir) as store:
        store.operation.set(Mode.PAUSED)
    typer.echo("paused: no further job begins until `gdsolver-pool resume`")


@clear_words()
def drain(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    wait: Annotated[bool, typer.Option("--wait", help="End only when nothing is queued or running.")] = False,
) -> None:
    """Accept no further job (503, with when to try again); those that are queued are solved.

    Example: gdsolver-pool drain --wait --data-dir ./pool
    """
    from solver_service.store.operation import Mode  # noqa: PLC0415 (needs Redis' client)

    with opened(redis_url, data_dir) as store:
        _begin_again(store, Mode.DRAINING)
        typer.echo("draining: no further job is accepted until `gdsolver-pool resume`")
        if wait:
            _await_empty(store)
    if wait:
        typer.echo("drained: nothing is queued or running")


def _await_empty(store: "Store") -> None:
    """Return when nothing is queued or running; a Redis that is away meanwhile has a minute to come back."""
    away_since: float | None = None
    while True:
        try:
            counts = store.jobs.counts()
        except StoreRefusedError:
            raise
        except StoreUnavailableError as error:
            if away_since is None:
                away_since = time.monotonic()
                typer.echo(f"{error}; waiting {AWAY_S:.0f} s at most for it to come back", err=True)
            elif time.monotonic() - away_since > AWAY_S:
                raise
        else:
            away_since = None
            if not counts["queued"] + counts["running"]:
                return
        time.sleep(REFRESH_S)


@clear_words()
def resume(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """Run the pool as usual again, after `pause` or `drain`.

    Example: gdsolver-pool resume --data-dir ./pool
    """
    from solver_service.store.operation import Mode  # noqa: PLC0415 (needs Redis' client)

    with opened(redis_url, data_dir) as store:
        waiting = _begin_again(store, Mode.RUNNING)
    typer.echo(f"running: {waiting} jobs are queued")


def _begin_again(store: "Store", mode: "Mode") -> int:
    """Set a mode in which jobs begin, and wake those that wait, once no worker takes the pool for a paused one."""
    from solver_service.purge import wake  # noqa: PLC0415 (these need Redis' client)
    from solver_service.store.operation import KNOWN_FOR_S, Mode  # noqa: PLC0415

    paused = store.operation.mode() is Mode.PAUSED
    store.operation.set(mode)
    if paused:
        time.sleep(KNOWN_FOR_S)
    return wake(store)
