"""A run that was killed goes on where it was, and ends as if nothing had happened."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import torch

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer.errors import TaskError
from trainer.lab.callbacks import Callback
from trainer.lab.checkpoint import Checkpoint
from trainer.lab.loop import Settings, train
from trainer.lab.methods import METHODS
from trainer.lab.runs import Epoch, Run
from trainer.lab.tasks import Request, Task, load_task

Serve = Callable[[FakePool], str]
PROGRAM = "from trainer.lab.cli import app; app()"
TRAIN = ["train", "formula", "--layer", "2", "--epochs", "30", "--sync"]


class Killed(BaseException):
    """Ends a run without a word, as far as that can be had within one process."""


class KillAfter(Callback):
    """Kills a run after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_epoch(self, epoch: Epoch) -> None:
        if epoch.number == self._epochs:
            raise Killed


class HoldingPool(FakePool):
    """A pool that holds one job back, the `held`-th: `holding` is set when that has been posted."""

    def __init__(self, held: int) -> None:
        super().__init__(least_squares)
        self.held, self.holding = held, threading.Event()
        self.keys: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.url.path == "/v1/solve":
            self.keys.append(request.headers["Idempotency-Key"])
            if len(self.specs) == self.held and not self.holding.is_set():
                self.release.clear()
                response = httpx.Response(202, json=json.loads(response.content) | {"state": "running"})
                self.holding.set()
        return response


class Served(ThreadingHTTPServer):
    """A fake pool at a real address."""

    def __init__(self, pool: FakePool) -> None:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = httpx.Request(
                    self.command, f"http://pool.test{self.path}", headers=dict(self.headers), content=body
                )
                found = pool.handle_request(asked)
                self.send_response(found.status_code)
                self.send_header("Content-Type", found.headers.get("Content-Type", "application/octet-stream"))
                self.send_header("Content-Length", str(len(found.content)))
                self.end_headers()
                self.wfile.write(found.content)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 (the standard library's names)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that was killed hung up: nothing to say."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves fake pools while a test lasts."""
    servers: list[Served] = []

    def begin(pool: FakePool) -> str:
        servers.append(Served(pool))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].url

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def start(folder: Path, url: str, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, *TRAIN, "--out", str(folder), "--gateway", url, *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GDSOLVER")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def weights(said: str) -> str:
    found = re.search(r"weights sha256 (\w+)", said)
    assert found, said
    return found[1]


@pytest.mark.parametrize("held", [1, 2])
def test_a_run_killed_while_it_waits_ends_with_the_same_weights(tmp_path: Path, serve: Serve, held: int) -> None:
    """kill -9 with a job out, and --resume: the job is found again, not made anew, and the weights are the same."""
    untouched = FakePool(least_squares)
    plain, _ = start(tmp_path / "plain", serve(untouched)).communicate(timeout=120)
    pool = HoldingPool(held)
    url = serve(pool)
    with start(tmp_path / "killed", url) as killed:
        assert pool.holding.wait(120)
        killed.send_signal(signal.SIGKILL)
    pool.release.set()
    posted, keys = len(pool.specs), list(pool.keys)
    said, _ = start(tmp_path / "killed", url, "--resume").communicate(timeout=120)
    assert weights(said) == weights(plain)
    assert "adopted" in said
    assert keys[-1] in pool.keys[len(keys) :]
    assert len(pool.specs) == len(untouched.specs) >= posted


@pytest.fixture(scope="module")
def task() -> Task:
    torch.set_num_threads(1)
    whole = load_task(Request("digits", fraction=0.2), 0)
    return dataclasses.replace(whole, defaults=dataclasses.replace(whole.defaults, patience=1, min_delta=0.0))


def run(task: Task, method: str, folder: Path, callback: Callback | None = None, *, resume: bool = False) -> Run:
    settings = Settings(epochs=8, sync=True, checkpoint=folder / "checkpoint.safetensors", resume=resume)
    client = FakePool(least_squares).client()
    return train(task, METHODS[method], seed=1, settings=settings, callback=callback or Callback(), client=client)


@pytest.mark.parametrize("method", ["sgd-lrs", "adam", "lbfgs", "restart", "hybrid"])
def test_every_method_goes_on_bit_for_bit(
    task: Task, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimizer, schedule, stall detector, kept starts and the order of samples are all in the checkpoint."""
    monkeypatch.setattr("trainer.lab.checkpoint.PAUSE_S", 0.0)
    whole = run(task, method, tmp_path / "whole")
    with pytest.raises(Killed):
        run(task, method, tmp_path / "killed", KillAfter(5))
    torch.manual_seed(99)
    resumed = run(task, method, tmp_path / "killed", resume=True)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.resumed_after in (4, 5)
    assert [epoch.score for epoch in resumed.epochs] == [epoch.score for epoch in whole.epochs]
    assert [event.kind for event in resumed.events] == [event.kind for event in whole.events]


def test_another_run_s_checkpoint_is_refused(task: Task, tmp_path: Path) -> None:
    """The error names what differs, be it the method or the training data."""
    run(task, "adam", tmp_path)
    with pytest.raises(TaskError, match="its method is 'adam', not 'sgd'"):
        run(task, "sgd", tmp_path, resume=True)
    other = load_task(Request("digits", fraction=0.1), 0)
    with pytest.raises(TaskError, match="its data is"):
        run(other, "adam", tmp_path, resume=True)


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    """What is no checkpoint is said so, with its path."""
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(TaskError, match=r"checkpoint\.safetensors cannot be read"):
        Checkpoint(file, {}).load()


def test_without_a_checkpoint_a_run_begins(task: Task, tmp_path: Path) -> None:
    """--resume may stand in a script from the first start on."""
    found = run(task, "adam", tmp_path, resume=True)
    assert found.resumed_after == 0
    assert len(found.epochs) == 8
