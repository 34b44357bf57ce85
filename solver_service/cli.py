"""The command `gdsolver-pool`: the embedded stack, or one gateway or worker against any Redis."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from shared.output import flushed
from solver_service import logs
from solver_service.errors import ServiceError, StoreRefusedError, StoreUnavailableError
from solver_service.pool import keeping, keyring, operate
from solver_service.pool.opening import RedisUrl
from solver_service.pool.running import KEYS
from solver_service.settings import Settings

if TYPE_CHECKING:
    from solver_service.store import Store

app = typer.Typer(
    name="gdsolver-pool",
    help="Run GDSolver's gateway and solver workers.",
    no_args_is_help=True,
    rich_markup_mode=None,  # markup would swallow the [default: ...] of the options below
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(keyring.keys, name="keys")
for command in (operate.status, operate.pause, operate.drain, operate.resume, keeping.backup, keeping.restore):
    app.command()(command)

Host = Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1, or GDSOLVER_HOST]")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one [default: 8000, or GDSOLVER_PORT]")
]
DEFAULT_WORKERS = max(1, (os.cpu_count() or 2) - 1)


@app.command()
def up(
    workers: Annotated[int, typer.Option(min=1, max=256, help="Solver workers, one core each.")] = DEFAULT_WORKERS,
    gateways: Annotated[int, typer.Option(min=1, max=64, help="Processes of the gateway.")] = 1,
    port: Port = None,
    host: Host = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where jobs are kept between runs [default: a temporary folder]")
    ] = None,
    stop_on_stdin_eof: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run Redis, a gateway and workers on this machine until Ctrl-C.

    Prints one line with the URL when the pool is ready. Exits with 3 if a part did not stop and had to be killed.

    Example: gdsolver-pool up --workers 2 --port 8000 --data-dir ./pool
    """
    from solver_service.pool.local import EmbeddedPool  # noqa: PLC0415 (needs the `local` extra)

    logs.configure()
    settings = _settings(host=host, port=port)
    ended = _ended_by_signal()
    if stop_on_stdin_eof:
        threading.Thread(target=_end_with_stdin, args=(ended,), daemon=True).start()
    folder = data_dir or Path(tempfile.mkdtemp(prefix="gdsolver-data-"))
    try:
        pool = EmbeddedPool(workers, folder, settings, gateways)
        killed = pool.run(on_ready=partial(_say_ready, folder), ended=ended.is_set)
    except ServiceError as error:
        _exit(str(error), code=1)
    except OSError as error:
        _exit(_of_folder(folder, error), code=1)
    finally:
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    if killed:
        _exit(f"stopped, but not in good order: {', '.join(killed)} had to be killed", code=3)
    _say("gdsolver-pool: stopped, no process is left")


@app.command()
def gateway(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
    fd: Annotated[int | None, typer.Option(hidden=True, help="An inherited listening socket.")] = None,
    pulse: Annotated[Path | None, typer.Option(hidden=True, help="A file to touch each second.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(exists=True, help="TLS certificate (PEM).")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(exists=True, help="TLS private key (PEM).")] = None,
) -> None:
    """Run one gateway against a Redis, in one process or in several that are started again when they die.

    Exits with 3 if one of several did not stop and had to be killed.

    Off loopback it needs a stored API key (`gdsolver-pool keys add`) or one in GDSOLVER_API_KEY.

    Example: GDSOLVER_API_KEY=... gdsolver-pool gateway --host 0.0.0.0 --redis-url redis://redis:6379/0
    """
    from solver_service.gateway.app import create_app  # noqa: PLC0415 (these need the `gateway` extra)
    from solver_service.gateway.door import OpenDoorError, require_a_key  # noqa: PLC0415
    from solver_service.gateway.processes import beating  # noqa: PLC0415
    from solver_service.gateway.server import server  # noqa: PLC0415
    from solver_service.gateway.services import Services  # noqa: PLC0415
    from solver_service.store import Store  # noqa: PLC0415

    logs.configure()
    settings = _settings(host=host, port=port, redis_url=redis_url)
    store = Store.open(settings)
    _require_welcome(store)
    try:
        require_a_key(settings, store.apikeys)
    except OpenDoorError as error:
        _exit(str(error), code=2)
    if processes > 1:
        store.close()
        _run_processes(processes, settings, fd, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile)
        return
    services = Services(store, settings, keys_seen=None if pulse is None else pulse.with_name(KEYS))
    beat = None if pulse is None else beating(pulse, services)
    app = create_app(services)
    serving = server(app, settings, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile, each_second=beat)
    serving.run(sockets=None if fd is None else [socket.socket(fileno=fd)])


def _run_processes(processes: int, settings: Settings, fd: int | None, **files: Path | None) -> None:
    """Be the parent of several gateways; what would end each of them again and again has been looked at before."""
    from solver_service.gateway.processes import Processes  # noqa: PLC0415 (needs the `gateway` extra)
    from solver_service.pool.listening import listening  # noqa: PLC0415

    ended = _ended_by_signal()
    options: list[str] = []
    for name, path in files.items():
        if path is not None:
            options += [f"--{name.replace('_', '-')}", str(path)]
    try:
        with listening(settings, fd) as listener:
            killed = Processes(processes, settings, listener, options).run(ended.is_set)
    except ServiceError as error:
        _exit(str(error), code=1)
        return
    if killed:
        _exit(f"stopped, but not in good order: {', '.join(killed)} had to be killed", code=3)


@app.command()
def worker(
    redis_url: RedisUrl = None,
    name: Annotated[str | None, typer.Option(help="Name of this worker [default: HOST-PID]")] = None,
    slots: Annotated[int, typer.Option(min=1, max=256, help="Jobs at a time, one core each.")] = 1,
) -> None:
    """Run one solver worker against a Redis.

    Example: gdsolver-pool worker --redis-url redis://redis:6379/0 --slots 4
    """
    from solver_service.store import Store  # noqa: PLC0415 (these need the `worker` extra)
    from solver_service.worker.app import run_worker  # noqa: PLC0415

    logs.configure()
    settings = _settings(redis_url=redis_url)
    with contextlib.closing(Store.open(settings)) as store:
        _require_welcome(store)
    run_worker(settings, name=name, slots=slots)


def _require_welcome(store: "Store") -> None:
    """End the command where Redis refuses the password; one that is away just now may come."""
    try:
        store.ping()
    except StoreRefusedError as error:
        _exit(str(error), code=2)
    except StoreUnavailableError:
        pass


def _settings(**flags: Any) -> Settings:
    """Flags, then GDSOLVER_* variables, then defaults; a bad value ends the command with one clear line."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        _exit(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}", code=2)
        raise


def _ended_by_signal() -> threading.Event:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    return ended


def _end_with_stdin(ended: threading.Event) -> None:
    """Whoever started us holds the other end of our standard input: when it is gone, so are we."""
    while sys.stdin.buffer.read(4096):
        pass
    ended.set()


def _of_folder(folder: Path, error: OSError) -> str:
    """What is wrong with the data folder, and the cure; other errors in their own words."""
    kinds = {
        errno.ENOSPC: "its disk is full; make room there, or name another --data-dir",
        errno.EEXIST: "it is a file; name a folder with --data-dir",
        errno.ENOTDIR: "it lies within a file; name a folder with --data-dir",
    }
    cure = kinds.get(error.errno or 0)
    return str(error) if cure is None else f"{folder} cannot hold the pool's data: {cure}"


def _say_ready(folder: Path, url: str) -> None:
    """Tell the address; a pool whose output nobody takes is ready all the same."""
    _say(f"gdsolver-pool: `gdsolver-pool status --data-dir {folder}` shows what it does")
    ready = f"gdsolver-pool ready: {url}"
    try:
        with flushed():
            typer.echo(ready)
    except OSError as error:
        _say(f"{ready} (standard output takes nothing: {error.strerror})")


def _say(words: str) -> None:
    typer.echo(words, file=logs.stderr)


def _exit(message: str, *, code: int) -> None:
    _say(f"gdsolver-pool: {message}")
    raise typer.Exit(code)
