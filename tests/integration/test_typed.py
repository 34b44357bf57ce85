"""What the documents type at a shell works as it stands, against a pool of the test's own: no line ends in an error.

Addresses, ids, folders and ports are the test's, of workers and processes there are fewer, and jobs are short. Which
lines are typed, and why some are not: tests/architecture/typing_rules.py.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from solver_service.pool.own_redis import redis_command
from solver_service.pool.running import announced, redis_url_of
from solver_service.settings import Settings
from solver_service.store import Store
from tests.architecture.pages import Block
from tests.architecture.typing_rules import Where, typed_at
from tests.conftest import ROOT, RunningPool, start_pool, wait_for
from tests.e2e.composed import free_port

STAYS = re.compile(r"^gdsolver-pool (up|gateway|worker)\b")
"""Commands that run until they are told to end."""
# The first key closes a pool to those without one, and the page on keys revokes those that it has made.
IN_ORDER = sorted(
    typed_at(Where.POOL), key=lambda found: ("keys add" in found[0].text, "keys revoke" not in found[0].text)
)


@dataclass(frozen=True)
class Desk:
    """Where it is typed: a folder with the examples, a pool with a job, and an empty Redis to restore into."""

    folder: Path
    pool: RunningPool
    job: str
    stayed: set[str] = field(default_factory=set)

    @property
    def redis_url(self) -> str:
        return redis_url_of(self.folder / "pool")

    def meant(self, line: str) -> str:
        """The line with what is the test's instead of what is the reader's."""
        line = line.replace("http://127.0.0.1:8000", self.pool.url).replace("redis://HOST:6379/0", self.redis_url)
        line = re.sub(r"/jobs/(ID|\$ID)\b", f"/jobs/{self.job}", line)
        line = line.replace('{"objective"', '{"limits": {"time_s": 1}, "objective"')
        if STAYS.search(line):
            line = line.replace("./pool", "./of-its-own").partition(" #")[0]
            line = re.sub(r"--(workers|slots) \d+", r"--\1 1", re.sub(r"--processes \d+", "--processes 2", line))
        return re.sub(r" --port \d+", "", line)

    def environment(self, port: int) -> dict[str, str]:
        scripts = Path(sys.executable).parent
        own = {"PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "GDSOLVER_PORT": str(port)}
        return {**os.environ, **own, "GDSOLVER_API_KEY": "k" * 40}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "pool").symlink_to(folder / "data")
    pool = start_pool(folder)
    try:
        form = {"spec": '{"objective": "zero_one", "radius": 0.1, "limits": {"time_s": 1}}'}
        with (ROOT / "examples" / "digits-stall.safetensors").open("rb") as snapshot:
            made = httpx.post(
                f"{pool.url}/v1/solve",
                data=form,
                files={"snapshot": snapshot},
                headers={"prefer": "wait=30"},
                timeout=40,
            )
        with new_pool(folder / "new-pool"):
            yield Desk(folder, pool, made.json()["id"])
    finally:
        pool.stop()


@contextlib.contextmanager
def new_pool(folder: Path) -> Iterator[None]:
    """What is there of a pool that has nothing yet, as far as `restore` sees it: its Redis."""
    folder.mkdir()
    path = folder.parent / "new.sock"
    redis = subprocess.Popen(redis_command(path, folder), stdout=subprocess.DEVNULL)
    try:
        wait_for(path.exists)
        with announced(folder, redis_url=f"unix://{path}", url=""):
            yield
    finally:
        redis.terminate()
        redis.wait(10)


@pytest.mark.parametrize(("block", "lines"), [pytest.param(*it, id=f"{it[0].page}:{it[1][0][:40]}") for it in IN_ORDER])
def test_a_block_can_be_typed(desk: Desk, block: Block, lines: list[str]) -> None:
    """What ends does so without an error; what stays comes up, and goes when it is told to."""
    # What another page has typed already need not come up again.
    staying = {it: free_port() for it in map(desk.meant, lines) if STAYS.search(it) and it not in desk.stayed}
    desk.stayed.update(staying)
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(begun(desk, line, port)) for line, port in staying.items()]
        script = "\n".join(["set -euo pipefail", *(desk.meant(line) for line in lines if not STAYS.search(line))])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=desk.folder,
            env=desk.environment(0),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"code":' not in done.stdout, done.stdout  # at a refusal curl ends without an error
        for server, (line, port) in zip(servers, staying.items(), strict=True):
            wait_for(lambda server=server, line=line, port=port: is_up(desk, server, line, port), within_s=60)


@contextlib.contextmanager
def begun(desk: Desk, line: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that stays; in the end it is told to go, and goes in good order."""
    server = subprocess.Popen(line.split(), cwd=desk.folder, env=desk.environment(port), stderr=subprocess.DEVNULL)
    try:
        yield server
        server.terminate()
        assert server.wait(30) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.wait(10)


def is_up(desk: Desk, server: "subprocess.Popen[bytes]", line: str, port: int) -> bool:
    """Whether a gateway answers, or a worker's heartbeat is in Redis."""
    assert server.poll() is None, f"{line} ended with {server.returncode}"
    if " worker " in line:
        store = Store.open(Settings(redis_url=desk.redis_url))
        with contextlib.closing(store):
            return any(worker.pid == server.pid for worker in store.workers.alive())
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    return False
