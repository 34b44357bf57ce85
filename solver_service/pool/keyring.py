"""The commands `gdsolver-pool keys ...`: who may ask, and what becomes of what they have made."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from shared.plain import plain
from solver_service.pool.opening import DataDir, RedisUrl, clear_words, columns, opened, refuse, terminal
from solver_service.pool.running import mark_keys
from solver_service.rules.owners import KEYLESS_OWNER, ApiKey, Scope, create_key, is_owner

if TYPE_CHECKING:
    from solver_service.store import Store

LOOK_S, PURGE_WITHIN_S = 1.0, 20.0
NONE = "-"

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
    """List the keys, without what they open with, and those that opened once and have data here still.

    Example: gdsolver-pool keys list --redis-url redis://redis:6379/0
    """
    table = columns("id", "name", "scopes", "owner", "weight", "made", whole=("id", "owner"))
    with opened(redis_url, data_dir) as store:
        weights, stored, revoked = store.turns.weights(), store.apikeys.all(), store.apikeys.revoked()
        left = store.quota.kept().keys() - {KEYLESS_OWNER} - {key.owner for key in stored}
        rows = [(key.id, key.name, _listed(key.scopes), key.owner, _made(key)) for key in stored]
        rows += [(key.id, key.name, "revoked", key.owner, _made(key)) for key in revoked if key.owner in left]
        nameless = sorted(left - {key.owner for key in revoked})
        rows += [(NONE, NONE, "no stored key", owner, NONE) for owner in nameless]
        for key_id, name, scopes, owner, made in rows:
            cells = (key_id, name, scopes, owner, f"{weights.get(owner, 1.0):g}", made)
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
        else:
            typer.echo(f"what it made expires by itself; to delete it: gdsolver-pool keys purge {key.owner}")


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
        str, typer.Argument(metavar="NAME-ID-OR-OWNER", help="A key, also a revoked one; its owner; or `local`.")
    ],
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Cancel a key's jobs, and delete all that it has made: records, results, snapshots. The key stays.

    Example: gdsolver-pool keys purge alice --data-dir ./pool
    """
    with opened(redis_url, data_dir) as store:
        owner = _owner(store, name)
        _purge(store, owner)
        for other in sorted(_revoked(store, name) - {owner}):
            typer.echo(
                f"a revoked key had this name, too, and what it made stays: gdsolver-pool keys purge {other}", err=True
            )


def _owner(store: "Store", name: str) -> str:
    """The owner behind a key's name or id, or else a revoked one's; else the name itself has to be an owner's."""
    owners = {key.owner for key in store.apikeys.all() if name in (key.name, key.id)} or _revoked(store, name)
    if len(owners) > 1:
        refuse(f"revoked keys of several owners had the name {name!r}; name the owner: {', '.join(sorted(owners))}")
    if owners:
        return owners.pop()
    if not is_owner(name):
        refuse(f"no key has the name or id {name!r}")
    return name


def _revoked(store: "Store", name: str) -> set[str]:
    """The owners of revoked keys of this name or id who have data here still."""
    return {key.owner for key in store.apikeys.revoked() if name in (key.name, key.id)} & store.quota.kept().keys()


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
        time.sleep(LOOK_S)
    typer.echo(f"deleted {deleted_jobs} jobs and {deleted_snapshots} snapshots")
    if found.still_running:
        refuse(f"{found.still_running} jobs are still being ended: run `gdsolver-pool keys purge {owner}` again")


def _scopes(text: str) -> frozenset[Scope]:
    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not found or not found <= {scope.value for scope in Scope}:
        refuse(f"--scope {text!r}: choose from {', '.join(Scope)}")
    return frozenset(map(Scope, found))


def _listed(scopes: frozenset[Scope]) -> str:
    return ",".join(scope.value for scope in Scope if scope in scopes)


def _made(key: ApiKey) -> str:
    return datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
