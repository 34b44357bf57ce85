"""Commands for whoever runs a pool: `gdsolver-pool keys` and `gdsolver-pool status`, straight from its Redis."""

import contextlib
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from shared.plain import plain
from solver_service.errors import StoreUnavailableError
from solver_service.pool.opening import DataDir, RedisUrl, clear_words, columns, opened, refuse, terminal
from solver_service.pool.running import mark_keys
from solver_service.rules.owners import KEYLESS_OWNER, Scope, create_key

if TYPE_CHECKING:
    from solver_service.store import Store
    from solver_service.store.operation import Mode

REFRESH_S = 1.0
PURGE_WITHIN_S = 20.0
OWNER = re.compile(r"[0-9a-f]{16}")

keys = typer.Typer(
    help="Manage API keys; a change counts at once, in every gateway on the same Redis.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@keys.command()
@clear_words()
def add(
    name: Annotated[str, typer.Argument(help="What to call the key; whoever holds it never needs to know.")],
    scope: Annotated[
        str, typer.Option(help="submit (and read one's own), read, admin (workers, stats); with commas between.")
    ] = "submit,read",
    same_owner_as: Annotated[
        str | None, typer.Option(help="Name or id of a key whose jobs this one shares: to replace a key, or to watch.")
    ] = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it: the only time that it is seen.

    Example: gdsolver-pool keys add alice --scope submit,read --data-dir ./pool
    """
    from solver_service.store.apikeys import KeyNameTakenError  # noqa: PLC0415 (needs Redis' client)

    scopes = _scopes(scope)
    if not name.isprintable() or not 0 < len(name) <= 100:
        refuse("a name has 1 to 100 printable characters")
    with opened(redis_url, data_dir) as store:
        owner = None
        if same_owner_as is not None:
            known = [key for key in store.apikeys.all() if same_owner_as in (key.name, key.id)]
            if not known:
                refuse(f"no key has the name or id {same_owner_as!r}")
            owner = known[0].owner
        key, token = create_key(name, scopes, now=store.jobs.now(), owner=owner)
        try:
            store.apikeys.add(key)
        except KeyNameTakenError:
            refuse(f"a key named {name!r} exists; revoke it first, or choose another name")
    if data_dir is not None:
        mark_keys(data_dir)
    typer.echo(f"key {key.id} ({name}: {_listed(key.scopes)}); it is shown this once:", err=True)
    typer.echo(token)


@keys.command("list")
@clear_words()
def show(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """List the keys, without what they open with.

    Example: gdsolver-pool keys list --redis-url redis://redis:6379/0
    """
    table = columns("id", "name", "scopes", "owner", "weight", "made", whole=("id", "owner"))
    with opened(redis_url, data_dir) as store:
        weights = store.turns.weights()
        for known in store.apikeys.all():
            made = datetime.fromtimestamp(known.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
            weight = f"{weights.get(known.owner, 1.0):g}"
            cells = (known.id, known.name, _listed(known.scopes), known.owner, weight, made)
            table.add_row(*(Text(plain(cell)) for cell in cells))
    terminal().print(table)


@keys.command(context_settings={"ignore_unknown_options": True})  # -1 is a number, if a wrong one
@clear_words()
def weight(
    name: Annotated[
        str, typer.Argument(metavar="NAME-ID-OR-OWNER", help="A key, the owner that keys share, or `local`.")
    ],
    turns: Annotated[float, typer.Argument(metavar="N", help="Turns for each one of a key of weight 1.")],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Give a key's jobs N turns for each one of another key's, while both have jobs waiting; 1 is usual.

    Example: gdsolver-pool keys weight alice 3 --data-dir ./pool
    """
    with opened(redis_url, data_dir) as store:
        owner = _owner(store, name)
        try:
            store.turns.weigh(owner, turns)
        except ValueError as error:
            refuse(f"{turns:g} is no weight: {error}")
        sharing = [key.name for key in store.apikeys.all() if key.owner == owner and name not in (key.name, key.id)]
    also = f" (also that of {', '.join(sharing)}, which shares its jobs)" if sharing else ""
    typer.echo(plain(f"weight of {name} is {turns:g}{also}"))


@keys.command()
@clear_words()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME-OR-ID")],
    purge: Annotated[bool, typer.Option("--purge", help="Cancel its jobs, and delete all that it has made.")] = False,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key: it opens nothing from now on. Jobs that it made run to their end, unless it is purged.

    Example: gdsolver-pool keys revoke alice --purge --data-dir ./pool
    """
    with opened(redis_url, data_dir) as store:
        key = store.apikeys.revoke(name)
        if key is None:
            refuse(f"no key has the name or id {name!r}")
        typer.echo(plain(f"revoked {key.id} ({key.name})"))
        if purge:
            sharing = [other.name for other in store.apikeys.all() if other.owner == key.owner]
            if sharing:
                refuse(f"nothing is deleted: {', '.join(sharing)} shares what it made; revoke that one as well")
            _purge(store, key.owner)


@keys.command()
@clear_words()
def cancel(
    name: Annotated[str, typer.Argument(metavar="NAME-OR-ID")], redis_url: RedisUrl = None, data_dir: DataDir = None
) -> None:
    """Cancel all unfinished jobs of a key; their incumbents are kept as results.

    Example: gdsolver-pool keys cancel alice --data-dir ./pool
    """
    from solver_service.purge import cancel_all  # noqa: PLC0415 (needs Redis' client)

    with opened(redis_url, data_dir) as store:
        found = cancel_all(store, _owner(store, name))
    typer.echo(f"{found} jobs are cancelled")


@keys.command("purge")
@clear_words()
def purge_key(
    name: Annotated[
        str, typer.Argument(metavar="NAME-ID-OR-OWNER", help="A key, the owner that a revoked key had, or `local`.")
    ],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Cancel a key's jobs, and delete all that it has made: records, results, snapshots. The key stays.

    Example: gdsolver-pool keys purge alice --data-dir ./pool
    """
    with opened(redis_url, data_dir) as store:
        _purge(store, _owner(store, name))


def _owner(store: "Store", name: str) -> str:
    """The owner behind a key's name or id; else the name itself has to be an owner's."""
    owners = {key.owner for key in store.apikeys.all() if name in (key.name, key.id)}
    if owners:
        return owners.pop()
    if name != KEYLESS_OWNER and not OWNER.fullmatch(name):
        refuse(f"no key has the name or id {name!r}")
    return name


def _purge(store: "Store", owner: str) -> None:
    from solver_service.purge import purge  # noqa: PLC0415 (needs Redis' client)

    end = time.monotonic() + PURGE_WITHIN_S
    deleted_jobs = deleted_snapshots = 0
    while True:
        found = purge(store, owner)
        deleted_jobs += found.jobs
        deleted_snapshots += found.snapshots
        if not found.still_running or time.monotonic() > end:
            break
        time.sleep(REFRESH_S)
    typer.echo(f"deleted {deleted_jobs} jobs and {deleted_snapshots} snapshots")
    if found.still_running:
        refuse(f"{found.still_running} jobs are still being ended: run `gdsolver-pool keys purge {owner}` again")


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
        counts = store.jobs.counts()
        while wait and counts["queued"] + counts["running"]:
            time.sleep(REFRESH_S)
            counts = store.jobs.counts()
    if wait:
        typer.echo("drained: nothing is queued or running")


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


def _scopes(text: str) -> frozenset[Scope]:
    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not found or not found <= {scope.value for scope in Scope}:
        refuse(f"--scope {text!r}: choose from {', '.join(Scope)}")
    return frozenset(map(Scope, found))


def _listed(scopes: frozenset[Scope]) -> str:
    return ",".join(scope.value for scope in Scope if scope in scopes)
