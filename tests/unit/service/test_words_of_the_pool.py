"""What the pool's commands say where a name, an address or a folder is wrong: what it is, and the cure."""

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from solver_service.cli import app
from solver_service.pool.listening import CannotListenError, listening
from solver_service.pool.running import NoPoolError, announced, exclusive, redis_url_of
from solver_service.settings import Settings
from trainer.pool.client import SolverClient


def test_a_pool_that_was_killed_is_none(tmp_path: Path) -> None:
    """What it left behind names a Redis that is no more; while it runs, the folder leads to it."""
    with exclusive(tmp_path), announced(tmp_path, redis_url="unix:///x.sock", url="http://127.0.0.1:1"):
        assert redis_url_of(tmp_path) == "unix:///x.sock"
        left = (tmp_path / "pool.json").read_text()
    (tmp_path / "pool.json").write_text(left)
    with pytest.raises(NoPoolError, match="no pool runs on"):
        redis_url_of(tmp_path)


def test_who_looks_whether_a_pool_runs_is_not_in_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look holds the lock for an instant, and a pool that begins in that one waits for it."""
    looked = exclusive(tmp_path)
    looked.__enter__()
    monkeypatch.setattr("solver_service.pool.running.time.sleep", lambda _: looked.__exit__(None, None, None))
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize("words", [["drain"], ["status"], ["keys", "list"]])
def test_a_folder_that_was_named_is_not_asked_for(tmp_path: Path, words: list[str]) -> None:
    """Only who names no pool at all is asked for one."""
    done = CliRunner().invoke(app, [*words, "--data-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert f"start it with `gdsolver-pool up --data-dir {tmp_path}`" in done.output
    assert "name the pool's Redis" not in done.output


@pytest.mark.parametrize("url", ["redis://127.0.0.1:99999", "redis://:pw@host:99999/0", "redis://host:many/0"])
def test_a_port_that_is_none_is_called_so(url: str) -> None:
    """And no password is spoken of."""
    with pytest.raises(ValidationError, match="port") as told:
        Settings(redis_url=url)
    assert "percent-encoding" not in str(told.value)


@pytest.mark.parametrize("url", ["redis://:p[w@host:6379/0", "redis://:99999/x@host:6379/0"])
def test_a_password_that_splits_the_url_otherwise_is_explained(url: str) -> None:
    """A bracket, and a number that looks like a port."""
    with pytest.raises(ValidationError, match="percent-encoding"):
        Settings(redis_url=url)


@pytest.mark.parametrize("key", ["schlüssel", "a\tb", "a\nb", "  ", "\n"])
def test_a_key_that_no_client_can_send_is_refused(key: str) -> None:
    """With the cure, and without the key."""
    with pytest.raises(ValidationError, match="printable ASCII") as told:
        Settings(api_key=key)  # type: ignore[arg-type]
    assert not key.strip() or key.strip() not in told.value.errors()[0]["msg"]


@pytest.mark.parametrize("key", ["k" * 32, "k\n", " k ", "two words", ""])
def test_a_key_is_what_clients_make_of_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A file's last newline is none of it; an empty one is none at all."""
    monkeypatch.setenv("GDSOLVER_API_KEY", key)
    sent = SolverClient("http://127.0.0.1:1")._channel._client.headers.get("authorization", "Bearer ")
    assert (Settings().key or "") == sent.removeprefix("Bearer ")


@pytest.mark.parametrize("host", ["nohost.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_a_matter_of_the_host(host: str) -> None:
    """No other port would help."""
    with pytest.raises(CannotListenError, match="--host") as told, listening(Settings(host=host, port=0)):
        pass
    assert "--port" not in str(told.value)


def test_a_port_that_is_taken_is_a_matter_of_the_port() -> None:
    """It is the port that is to be changed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1])
        with pytest.raises(CannotListenError, match="another --port"), listening(settings):
            pass
