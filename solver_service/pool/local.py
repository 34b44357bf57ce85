"""The embedded stack: Redis, gateway and workers as supervised child processes of one command."""

import contextlib
import http.client
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from solver_service.errors import StoreUnavailableError
from solver_service.gateway.door import require_a_key
from solver_service.pool.children import Child, python_path
from solver_service.pool.folder import REDIS_LOG, taken
from solver_service.pool.listening import listening, url_of
from solver_service.pool.own_redis import (
    ANSWERS_WITHIN_S,
    POLL_S,
    READY_WITHIN_S,
    Answer,
    PoolStartError,
    ask,
    await_redis,
    client_of,
    folder_for_sockets,
    redis_command,
)
from solver_service.pool.running import announced, keys_marked, mark_keys
from solver_service.settings import Settings
from solver_service.store.apikeys import ApiKeyStore
from solver_service.store.workers import WorkerStore

log = structlog.get_logger()

STOP_WITHIN_S, REDIS_STOPS_WITHIN_S = 15.0, 10.0
LOOK_S = 1.0


@dataclass
class EmbeddedPool:
    """Redis on a unix socket, one gateway (of one or more processes) on an inherited socket, and N workers."""

    workers: int
    data_dir: Path
    settings: Settings
    gateways: int = 1
    _children: list[Child] = field(default_factory=list)
    _environment: dict[str, str] = field(default_factory=dict)

    def run(self, *, on_ready: Callable[[str], None], ended: Callable[[], bool]) -> list[str]:
        """Bring everything up, call `on_ready` with the URL, tend the children until `ended` says so, stop all.

        Returns the names of those that had to be killed, because they did not stop in time.
        """
        killed: list[str] = []
        with (
            taken(self.data_dir),
            tempfile.TemporaryDirectory(prefix="gdsolver-", dir=folder_for_sockets()) as short,
            listening(self.settings) as listener,
        ):
            host, port = listener.getsockname()[:2]
            url = url_of(listener)
            redis_url = f"unix://{Path(short) / 'redis.sock'}"
            with announced(self.data_dir, redis_url=redis_url, url=url):
                try:
                    self._start(redis_url, listener, ended)
                    self._until(lambda: ended() or answers(host, port, "/readyz"), "the pool did not become ready")
                    if not ended():
                        on_ready(url)
                        with self._watched(redis_url, host, port):
                            while not ended():
                                self._tend()
                                time.sleep(POLL_S)
                finally:
                    killed += self._stop()
        return killed

    def _start(self, redis_url: str, listener: socket.socket, ended: Callable[[], bool]) -> None:
        self._environment = {
            **self.settings.model_copy(update={"redis_url": redis_url}).environment(os.environ),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            **({"GDSOLVER_REQUIRE_KEYS": "true"} if keys_marked(self.data_dir) else {}),
            "PYTHONPATH": python_path(),
        }
        self._add(Child("redis", redis_command(Path(redis_url.removeprefix("unix://")), self.data_dir)))
        with contextlib.closing(client_of(redis_url)) as client:
            await_redis(self._children[0], client, self.data_dir, ended)
            if ended():
                return
            require_a_key(self.settings, ApiKeyStore(client))
        program = [sys.executable, "-m", "solver_service"]
        door = ["--host", self.settings.host, "--fd", str(listener.fileno()), "--processes", str(self.gateways)]
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

    @contextlib.contextmanager
    def _watched(self, redis_url: str, host: str, port: int) -> Iterator[None]:
        """Look every second, in a thread, which children hang."""
        for child in self._children[:2]:
            child.watch(well=True)  # Redis and the gateway have just answered
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(redis_url, host, port, over), name="vigil", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(3 * ANSWERS_WITHIN_S)

    def _watch(self, redis_url: str, host: str, port: int, over: threading.Event) -> None:
        client = client_of(redis_url)
        workers, stored = WorkerStore(client, self.settings.heartbeat_s), ApiKeyStore(client)
        redis_child, gateway, *others = self._children
        while not over.wait(LOOK_S):
            answer = ask(client)
            redis_child.watch(answer is not Answer.NONE)
            gateway.watch(status_of(host, port, "/healthz") is not None)
            try:
                # While Redis refuses to write there are no heartbeats, however well the workers are.
                alive = {worker.pid for worker in workers.alive()} if answer is Answer.SERVES else None
                if "GDSOLVER_REQUIRE_KEYS" not in self._environment and stored.in_use():
                    mark_keys(self.data_dir)
                    self._environment["GDSOLVER_REQUIRE_KEYS"] = "true"
            except StoreUnavailableError:
                alive = None
            for child in others:
                pid = None if child.process is None else child.process.pid
                child.watch(None if alive is None else pid in alive)
        client.close()

    def _stop(self) -> list[str]:
        """Stop workers and gateway, so that incumbents are stored, and Redis last; each has a time of its own."""
        killed = []
        for group, within_s in ((self._children[1:], STOP_WITHIN_S), (self._children[:1], REDIS_STOPS_WITHIN_S)):
            for child in group:
                child.signal(signal.SIGTERM)
            end = time.monotonic() + within_s
            killed += [child.name for child in group if child.end(end)]
        return killed


def answers(host: str, port: int, path: str) -> bool:
    """Whether a gateway answers with 200."""
    return status_of(host, port, path) == http.HTTPStatus.OK


def status_of(host: str, port: int, path: str) -> int | None:
    """With which status a gateway answers; None when it does not."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWERS_WITHIN_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
