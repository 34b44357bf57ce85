"""Commands for whoever runs a pool: `gdsolver-pool keys` and `gdsolver-pool status`, straight from its Redis."""

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from solver_service.errors import ServiceError, StoreUnavailableError
from solver_service.pool.running import mark_keys, redis_url_of
from solver_service.rules.owners import KEYLESS_OWNER, Scope, create_key
from solver_service.settings import Settings

if TYPE_CHECKING:
    from solver_service.store import Store

REFRESH_S = 1.0
PURGE_WITHIN_S = 20.0
OWNER = re.compile(r"[0-9a-f]{16}")

keys = typer.Typer(
    help="Manage API keys; a change counts at once, in every gateway on the same Redis.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RedisUrl = Annotated[
    str | None, typer.Option(help="redis://HOST:PORT/DB or unix:///PATH [default: local Redis, or GDSOLVER_REDIS_URL]")
]
DataDir = Annotated[
    Path | None, typer.Option(help="The --data-dir of a running `gdsolver-pool up`, in place of --redis-url.")
]


@keys.command()
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
        _exit("a name has 1 to 100 printable characters")
    with _opened(redis_url, data_dir) as store:
        owner = None
        if same_owner_as is not None:
            known = [key for key in store.apikeys.all() if same_owner_as in (key.name, key.id)]
            if not known:
                _exit(f"no key has the name or id {same_owner_as!r}")
            owner = known[0].owner
        key, token = create_key(name, scopes, now=store.jobs.now(), owner=owner)
        try:
            store.apikeys.add(key)
        except KeyNameTakenError:
            _exit(f"a key named {name!r} exists; revoke it first, or choose another name")
    if data_dir is not None:
        mark_keys(data_dir)
    typer.echo(f"key {key.id} ({name}: {_listed(key.scopes)}); it is shown this once:", err=True)
    typer.echo(token)


@keys.command("list")
def show(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """List the keys, without what they open with.

    Example: gdsolver-pool keys list --redis-url redis://redis:6379/0
    """
    table = Table("id", "name", "scopes", "owner", "made")
    with _opened(redis_url, data_dir) as store:
        for key in store.apikeys.all():
            made = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
            table.add_row(key.id, key.name, _listed(key.scopes), key.owner, made)
    Console().print(table)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME-OR-ID")],
    purge: Annotated[bool, typer.Option("--purge", help="Cancel its jobs, and delete all that it has made.")] = False,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key: it opens nothing from now on. Jobs that it made run to their end, unless it is purged.

    Example: gdsolver-pool keys revoke alice --purge --data-dir ./pool
    """
    with _opened(redis_url, data_dir) as store:
        key = store.apikeys.revoke(name)
        if key is None:
            _exit(f"no key has the name or id {name!r}")
        typer.echo(f"revoked {key.id} ({key.name})")
        if purge:
            sharing = [other.name for other in store.apikeys.all() if other.owner == key.owner]
            if sharing:
                _exit(f"nothing is deleted: {', '.join(sharing)} shares what it made; revoke that one as well")
            _purge(store, key.owner)


@keys.command()
def cancel(
    name: Annotated[str, typer.Argument(metavar="NAME-OR-ID")], redis_url: RedisUrl = None, data_dir: DataDir = None
) -> None:
    """Cancel all unfinished jobs of a key; their incumbents are kept as results.

    Example: gdsolver-pool keys cancel alice --data-dir ./pool
    """
    from solver_service.purge import cancel_all  # noqa: PLC0415 (needs Redis' client)

    with _opened(redis_url, data_dir) as store:
        found = cancel_all(store, _owner(store, name))
    typer.echo(f"{found} jobs are cancelled")


@keys.command("purge")
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
    with _opened(redis_url, data_dir) as store:
        _purge(store, _owner(store, name))


def _owner(store: "Store", name: str) -> str:
    """The owner behind a key's name or id; else the name itself has to be an owner's."""
    owners = {key.owner for key in store.apikeys.all() if name in (key.name, key.id)}
    if owners:
        return owners.pop()
    if name != KEYLESS_OWNER and not OWNER.fullmatch(name):
        _exit(f"no key has the name or id {name!r}")
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
        _exit(f"{found.still_running} jobs are still being ended: run `gdsolver-pool keys purge {owner}` again")


def status(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write it to this file as well, once.")] = None,
) -> None:
    """Show workers, queue, running jobs and last results, until Ctrl-C.

    Example: gdsolver-pool status --data-dir ./pool
    """
    from solver_service.pool.status import look, render  # noqa: PLC0415 (needs Redis' client)

    with _opened(redis_url, data_dir) as store:
        pool = look(store)
        if once or json is not None:
            Console().print(render(pool))
            if json is not None:
                json.write_text(pool.model_dump_json(indent=2) + "\n")
            return
        with contextlib.suppress(KeyboardInterrupt), Live(render(pool), auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_S)
                with contextlib.suppress(StoreUnavailableError):  # what was seen last stays until Redis is back
                    live.update(render(look(store)), refresh=True)


def pause(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """Let no further job begin: those at work end, submissions wait in the queue until `resume`.

    Example: gdsolver-pool pause --data-dir ./pool
    """
    from solver_service.store.operation import Mode  # noqa: PLC0415 (needs Redis' client)

    with _opened(redis_url, data_dir) as store:
        store.operation.set(Mode.PAUSED)
    typer.echo("paused: no further job begins until `gdsolver-pool resume`")


def drain(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    wait: Annotated[bool, typer.Option("--wait", help="End only when nothing is queued or running.")] = False,
) -> None:
    """Accept no further job (503, with when to try again); those that are queued are solved.

    Example: gdsolver-pool drain --wait --data-dir ./pool
    """
    from solver_service.store.operation import Mode  # noqa: PLC0415 (needs Redis' client)

    with _opened(redis_url, data_dir) as store:
        store.operation.set(Mode.DRAINING)
        typer.echo("draining: no further job is accepted until `gdsolver-pool resume`")
        counts = store.jobs.counts()
        while wait and counts["queued"] + counts["running"]:
            time.sleep(REFRESH_S)
            counts = store.jobs.counts()
    if wait:
        typer.echo("drained: nothing is queued or running")


def resume(redis_url: RedisUrl = None, data_dir: DataDir = None) -> None:
    """Run the pool as usual again, after `pause` or `drain`.

    Example: gdsolver-pool resume --data-dir ./pool
    """
    from solver_service.purge import wake  # noqa: PLC0415 (these need Redis' client)
    from solver_service.store.operation import Mode  # noqa: PLC0415

    with _opened(redis_url, data_dir) as store:
        store.operation.set(Mode.RUNNING)
        waiting = wake(store)
    typer.echo(f"running: {waiting} jobs are queued")


@contextlib.contextmanager
def _opened(redis_url: str | None, data_dir: Path | None) -> Iterator["Store"]:
    """Open the store that the options name; what goes wrong ends the command with one clear line."""
    from solver_service.store import Store  # noqa: PLC0415

    try:
        url = redis_url_of(data_dir) if data_dir is not None else redis_url
        settings = Settings() if url is None else Settings(redis_url=url)
        store = Store.open(settings)
        try:
            yield store
        finally:
            store.close()
    except ServiceError as error:
        _exit(str(error))
    except ValidationError as error:
        _exit(f"setting {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}")


def _scopes(text: str) -> frozenset[Scope]:
    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not found or not found <= {scope.value for scope in Scope}:
        _exit(f"--scope {text!r}: choose from {', '.join(Scope)}")
    return frozenset(map(Scope, found))


def _listed(scopes: frozenset[Scope]) -> str:
    return ",".join(scope.value for scope in Scope if scope in scopes)


def _exit(message: str) -> NoReturn:
    typer.echo(f"gdsolver-pool: {message}", err=True)
    raise typer.Exit(1)
