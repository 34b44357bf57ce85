"""A Redis that a Sentinel names: the store and Celery both find it."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import ValidationError

from solver_service.pool.own_redis import redis_server
from solver_service.queue import celery_app
from solver_service.sentinel import Sentinels, sentinels
from solver_service.settings import Settings
from solver_service.store import Store
from tests.conftest import wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis with a password, and of the one Sentinel that knows it."""
    data, watching = free_port(), free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {watching}\nbind 127.0.0.1\ndir {tmp_path}\nrequirepass s/cret\n"
        f"sentinel monitor main 127.0.0.1 {data} 1\nsentinel auth-pass main s/cret\n"
    )
    server = [redis_server(), "--port", str(data), "--bind", "127.0.0.1", "--save", "", "--requirepass", "s/cret"]
    commands = (server, [redis_server(), str(config), "--sentinel"])
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        for command in commands
    ]

    def answers(port: int) -> bool:
        with redis.Redis(port=port, password="s/cret") as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    try:
        wait_for(lambda: answers(data) and answers(watching))
        yield f"redis+sentinel://:s%2Fcret@127.0.0.1:{watching}/main/2"
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def test_both_sides_find_the_master(watched: str) -> None:
    """What the store pushes, Celery finds in the same database."""
    store = Store.open(Settings(redis_url=watched))
    store.ping()
    with celery_app(watched, current=False).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        queue = connection.SimpleQueue("probe")
        queue.put("word")
        wait_for(lambda: bool(store.redis.exists("probe")))
        queue.close()
    store.close()


def test_urls_of_sentinels() -> None:
    """Hosts with and without ports, a password, a database; one that cannot be read is explained."""
    assert sentinels("redis://h:1/0") is None
    assert sentinels("redis+sentinel://a,b:5/main") == Sentinels((("a", 26379), ("b", 5)), "main", 0, None)
    assert sentinels("redis+sentinel://:p%40@a/m/3") == Sentinels((("a", 26379),), "m", 3, "p@")
    with pytest.raises(ValidationError, match="HOST:PORT"):
        Settings(redis_url="redis+sentinel://a")
