"""The embedded pool's Redis begins: it may read its log for long, it may end, and whoever waits may be told to end."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from solver_service.pool import own_redis
from solver_service.pool.children import Child
from solver_service.pool.own_redis import MOST_FOR_SOCKETS, PoolStartError, await_redis, folder_for_sockets

Process = Callable[[str], Child]


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Process:
    """A child that runs so much Python."""

    def start(code: str) -> Child:
        child = Child("redis", [sys.executable, "-c", code])
        child.start({**os.environ})
        request.addfinalizer(lambda: child.end(0.0))
        return child

    return start


def answering(*errors: Exception | None) -> Any:
    """A client whose pings fail so, one after the other, and as the last one ever after."""
    left = list(errors)

    def ping() -> bool:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return True

    return SimpleNamespace(ping=ping)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_redis, "READY_WITHIN_S", 0.3)


def test_who_is_told_to_end_waits_no_longer(running: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while Redis says nothing at all."""
    monkeypatch.setattr(own_redis, "READY_WITHIN_S", 60.0)
    begun = time.monotonic()
    ended = iter([False, False, True])
    await_redis(
        running("import time; time.sleep(60)"), answering(redis.ConnectionError()), tmp_path, lambda: next(ended)
    )
    assert time.monotonic() - begun < 10


def test_a_log_of_before_may_be_read_for_long(running: Process, tmp_path: Path) -> None:
    """Longer than Redis may say nothing; and that is told, but not ten times a second."""
    loads = [redis.BusyLoadingError()] * 8
    sleeper = running("import time; time.sleep(60)")
    with capture_logs() as said:
        await_redis(sleeper, answering(redis.ConnectionError(), *loads, None), tmp_path, lambda: False)
    assert [line["event"].split(":")[0] for line in said] == ["Redis reads its log of before"]


def test_one_that_refuses_serves(running: Process, tmp_path: Path) -> None:
    """While its disk is full a Redis answers a PING with an error, and reads what it has."""
    await_redis(
        running("import time; time.sleep(60)"), answering(redis.ResponseError("MISCONF")), tmp_path, lambda: False
    )


@pytest.mark.parametrize("words", ["", "Bad file format reading the append only file\nuse redis-check-aof --fix\n"])
def test_one_that_has_ended_is_told_at_once_with_its_last_words(
    running: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Its own log says why, most often."""
    monkeypatch.setattr(own_redis, "READY_WITHIN_S", 60.0)
    (tmp_path / "redis.log").write_text(words)
    with pytest.raises(PoolStartError, match=r"exit code 1; .*redis\.log") as told:
        await_redis(running("raise SystemExit(1)"), answering(redis.ConnectionError()), tmp_path, lambda: False)
    assert str(told.value).endswith(words.strip())


def test_one_that_says_nothing_is_given_up(running: Process, tmp_path: Path) -> None:
    """After a minute, with its last words."""
    (tmp_path / "redis.log").write_text("some words\n")
    sleeper = running("import time; time.sleep(60)")
    with pytest.raises(PoolStartError, match=r"did not start within (?s:.*)some words"):
        await_redis(sleeper, answering(redis.ConnectionError()), tmp_path, lambda: False)


@pytest.mark.parametrize("letter", ["d", "ü"])
def test_a_folder_of_a_long_name_is_not_taken_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    """Bytes count, not characters; and where there is no other one, the cure is told."""
    long = tmp_path / (letter * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert len(os.fsencode(long)) > MOST_FOR_SOCKETS
    assert folder_for_sockets() == "/tmp"
    monkeypatch.setattr(own_redis, "SHORT", str(tmp_path / "missing"))
    with pytest.raises(PoolStartError, match="TMPDIR"):
        folder_for_sockets()
