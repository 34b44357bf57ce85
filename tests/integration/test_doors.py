"""Small doors: readiness for strangers, passwords of Redis, repeated submissions at the limit."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError
from typer.testing import CliRunner

from solver_service.cli import _of_folder, app
from solver_service.errors import StoreRefusedError
from solver_service.pool.own_redis import redis_command
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store
from solver_service.store.workers import WorkerStore
from tests.conftest import ROOT, wait_for
from tests.integration.test_gateway import SPEC, Gateway, assert_problem, post, upload


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Commands set the logs up for their own standard error, which ends with them."""
    yield
    structlog.reset_defaults()


def test_readiness_is_looked_at_once_a_second(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand strangers who ask cost one look, which reads no heartbeat of a live pool but the first few."""
    gateway = Gateway(Settings(redis_url=redis_url))
    looks = 0
    real = WorkerStore.any_alive

    def counted(workers: WorkerStore) -> bool:
        nonlocal looks
        looks += 1
        return real(workers)

    monkeypatch.setattr(WorkerStore, "any_alive", counted)
    monkeypatch.setattr(WorkerStore, "alive", lambda _: pytest.fail("all heartbeats were read"))
    monkeypatch.setattr("solver_service.gateway.readiness.KNOWN_FOR_S", 1000.0)
    with gateway.client() as client:
        assert_problem(client.get("/readyz"), 503, "store_unavailable")
        assert {client.get("/readyz").status_code for _ in range(100)} == {503}
    assert looks == 1
    for number in range(120):
        gateway.store.workers.beat(f"w{number}", host="h", pid=number, slots=1)
    for number in range(119):
        gateway.store.redis.delete(f"gds:worker:w{number}")
    assert gateway.store.workers.any_alive()
    gateway.store.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A Redis with a password."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gds-test-") as short:
        path = Path(short) / "redis.sock"
        command = [*redis_command(path, tmp_path), "--requirepass", "right"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(path.exists)
            yield f"{path}"
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.parametrize("url", ["unix://:wrong@{path}", "unix://{path}"])
@pytest.mark.parametrize("part", [["gateway"], ["worker"], ["status", "--once"], ["keys", "list"]])
def test_a_wrong_password_of_redis_is_called_so(guarded: str, url: str, part: list[str]) -> None:
    """Every command ends with words about the password, not with advice to wait."""
    result = CliRunner().invoke(app, [*part, "--redis-url", url.format(path=guarded)])
    assert result.exit_code in (1, 2)
    assert "password" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_gateway_whose_password_became_wrong_says_so(guarded: str) -> None:
    """A 503 that tells the client who has to do something."""
    right = Store.open(Settings(redis_url=f"unix://:right@{guarded}"))
    right.ping()
    right.close()
    wrong = Settings(redis_url=f"unix://:wrong@{guarded}")
    store = Store.open(wrong)
    with pytest.raises(StoreRefusedError):
        store.ping()
    store.close()
    gateway = Gateway.__new__(Gateway)
    from solver_service.gateway.app import create_app
    from solver_service.gateway.services import Services

    gateway.store = Store.open(wrong)
    gateway.app = create_app(Services(gateway.store, wrong))
    with gateway.client() as client:
        answer = client.get("/v1/jobs")
    assert_problem(answer, 503, "store_unavailable")
    assert "password" in answer.json()["detail"]
    gateway.store.close()


@pytest.mark.parametrize("password", ["p/w", "p#w", "p?w", "12/x"])
def test_a_password_that_splits_the_url_is_explained(password: str) -> None:
    """An unencoded password is no traceback, but words on how to write it."""
    with pytest.raises(ValidationError, match="percent-encoding"):
        Settings(redis_url=f"redis://:{password}@host:6379/0")
    result = CliRunner().invoke(app, ["keys", "list", "--redis-url", f"redis://:{password}@host:6379/0"])
    assert result.exit_code == 1
    assert "percent-encoding" in result.output
    assert Settings(redis_url="redis://:p%2Fw@host:6379/0").redis_url


def test_a_repeated_submission_at_the_limit_gets_its_job(redis_url: str) -> None:
    """The same idempotency key finds its job, whatever limit is reached; a new one is still refused."""
    gateway = Gateway(Settings(redis_url=redis_url, max_unfinished_per_key=1))
    key, token = create_key("alice", [Scope.SUBMIT], now=0)
    gateway.store.apikeys.add(key)
    with gateway.client(headers={"authorization": f"Bearer {token}"}) as alice:
        spec: dict[str, object] = {"snapshot": upload(alice)}
        first = post(alice, spec, **{"Idempotency-Key": "k"})
        assert post(alice, spec, **{"Idempotency-Key": "k"})["id"] == first["id"]
        refused = alice.post("/v1/jobs", json={**SPEC, **spec}, headers={"Idempotency-Key": "other"})
        assert_problem(refused, 429, "too_many_jobs")
    gateway.store.close()


@pytest.mark.parametrize(("folder", "words"), [("file", "it is a file; name a folder"), ("file/data", "within a file")])
def test_a_data_folder_that_is_none_is_named_with_the_cure(tmp_path: Path, folder: str, words: str) -> None:
    """`up` ends at once, in one line."""
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "solver_service", "up", "--port", "0", "--data-dir", str(tmp_path / folder)]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"gdsolver-pool: {tmp_path / folder} cannot hold the pool's data: ")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_full_disk_is_named_with_the_cure() -> None:
    """Not by its number alone."""
    said = _of_folder(Path("pool"), OSError(errno.ENOSPC, "No space left on device"))
    assert said.startswith("pool cannot hold the pool's data: its disk is full; make room there")
