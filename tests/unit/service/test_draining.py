"""`gdsolver-pool drain --wait` rides out a Redis that is away for a while, as `gdsolver watch` does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from solver_service.cli import app
from solver_service.errors import ServiceError, StoreRefusedError, StoreUnavailableError
from solver_service.pool import operate

AWAY = StoreUnavailableError("Redis: connection refused")
Answer = int | ServiceError
Drain = Callable[..., Result]


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=0.0)


@pytest.fixture
def drain(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> Drain:
    """Drain a pool that answers so, one after the other, on a clock of its own."""

    def sleep(seconds: float) -> None:
        clock.now += seconds

    def run(*answers: Answer, last: Answer = 0) -> Result:
        left = list(answers)

        def counts() -> dict[str, int]:
            answer = left.pop(0) if left else last
            if isinstance(answer, ServiceError):
                raise answer
            return {"queued": answer, "running": 0}

        @contextmanager
        def opened(*_: object) -> Iterator[SimpleNamespace]:
            try:
                yield SimpleNamespace(jobs=SimpleNamespace(counts=counts))
            except ServiceError as error:
                operate.refuse(str(error))

        monkeypatch.setattr(operate, "opened", opened)
        return CliRunner().invoke(app, ["drain", "--wait"])

    monkeypatch.setattr(operate, "_begin_again", lambda *_: 0)
    monkeypatch.setattr(operate, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock.now))
    return run


def test_an_outage_is_ridden_out_and_told_once(drain: Drain) -> None:
    """Also a second one, and one at the very beginning."""
    done = drain(AWAY, AWAY, 3, AWAY, AWAY, AWAY, 1, 0)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("connection refused") == 2
    assert "drained" in done.stdout


def test_an_outage_without_end_ends_it(drain: Drain, clock: SimpleNamespace) -> None:
    """After a minute, and one minute a time: not all outages together."""
    done = drain(*[*[AWAY] * 40, 1] * 3, last=AWAY)
    assert (done.exit_code, "drained" in done.stdout) == (1, False)
    assert 180 < clock.now < 200


def test_a_wrong_password_is_no_outage(drain: Drain, clock: SimpleNamespace) -> None:
    """Waiting does not help."""
    assert drain(1, StoreRefusedError("wrong password")).exit_code == 1
    assert clock.now < 3
