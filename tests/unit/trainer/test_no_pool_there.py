"""Commands that speak to a pool by hand, where none answers or none is ready: one line that says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.unit.trainer.fakes import FakePool, problem
from trainer.lab import cli
from trainer.lab.commands import surroundings
from trainer.pool.client import SolverClient

STALL = Path(__file__).parents[3] / "examples" / "digits-stall.safetensors"
COMMANDS = [["jobs"], ["watch", "last"], ["cancel", "last"], ["submit", str(STALL)]]
Pools = Callable[[httpx.BaseTransport], None]


class NotReady(FakePool):
    """A pool that is there, and has no worker."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return problem(503, "not_ready", "no worker")
        return super().handle_request(request)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pools:
    """Puts a pool in the place of all others."""

    def put(transport: httpx.BaseTransport) -> None:
        def connect(url: str, api_key: str | None = None, **_: Any) -> SolverClient:
            return SolverClient(url, api_key, transport=transport, retries=1, sleep=lambda _: None)

        monkeypatch.setattr(surroundings, "SolverClient", connect)

    return put


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_pool_is_one_line(pool: Pools, command: list[str]) -> None:
    """What does not answer is not also said to be not ready."""
    nobody = FakePool()
    nobody.down = True
    pool(nobody)
    done = CliRunner().invoke(cli.app, [*command, "--gateway", "http://pool.test"])
    assert done.exit_code == 1
    assert done.output.splitlines() == ["gdsolver: no answer from the pool at http://pool.test: connection refused"]


def test_a_pool_without_workers_is_told_of_and_asked(pool: Pools) -> None:
    """It answers, so the command goes on; who submits learns why nothing moves."""
    pool(NotReady())
    done = CliRunner().invoke(cli.app, ["submit", str(STALL), "--gateway", "http://pool.test"])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "gdsolver: the pool at http://pool.test is not ready now; jobs wait until it is",
        "job-1",
    ]


def test_a_training_is_told_and_goes_on(pool: Pools, tmp_path: Path) -> None:
    """A pool that comes later is of use later."""
    nobody = FakePool()
    nobody.down = True
    pool(nobody)
    said = tmp_path / "said.json"
    options = ["--epochs", "1", "--seeds", "1", "--methods", "hybrid", "--out", str(tmp_path), "--json", str(said)]
    done = CliRunner().invoke(cli.app, ["compare", "digits", *options, "--gateway", "http://pool.test"])
    assert done.exit_code == 0
    assert "is not ready now; tunnels begin when it is" in done.output
    assert json.loads(said.read_text())["pool_lost"]
