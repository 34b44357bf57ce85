"""What a revoked key has made can still be found and deleted: by its name, its id, or its owner."""

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from solver_service.cli import app
from solver_service.rules.owners import ApiKey, Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store

Run = Callable[..., str]


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    made = Store.open(Settings(redis_url=redis_url))
    made.redis.flushdb()
    yield made
    made.redis.flushdb()
    made.close()


@pytest.fixture
def run(redis_url: str) -> Run:
    def command(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["keys", *words, "--redis-url", redis_url], env={"COLUMNS": "250"})
        assert done.exit_code == code, done.output
        return done.output

    return command


def keyed(store: Store, name: str) -> ApiKey:
    """A key that has a snapshot."""
    key, _ = create_key(name, [Scope.SUBMIT], now=store.jobs.now())
    store.apikeys.add(key)
    store.blobs.put_snapshot(key.owner, "a" * 64, b"data")
    return key


@pytest.mark.parametrize("by", ["name", "id", "owner"])
def test_a_revoked_keys_data_is_purged_by(store: Store, run: Run, by: str) -> None:
    """`revoke` says how, and `keys list` shows the key for as long as it has data."""
    key = keyed(store, "alice")
    assert f"gdsolver-pool keys purge {key.owner}" in run("revoke", "alice")
    (row,) = [line for line in run("list").splitlines() if key.owner in line]
    assert all(word in row for word in (key.id, "alice", "revoked"))
    assert store.apikeys.find(key.id) is None
    assert "1 snapshots" in run("purge", getattr(key, by))
    assert key.owner not in run("list")
    run("purge", "alice", code=1)


def test_a_new_key_of_the_name_hides_nothing_of_the_old_one(store: Store, run: Run) -> None:
    """The name means the key that there is, and whoever purges it is told of the other one."""
    old = keyed(store, "alice")
    run("revoke", "alice")
    new = keyed(store, "alice")
    said = run("purge", "alice")
    assert "1 snapshots" in said
    assert f"gdsolver-pool keys purge {old.owner}" in said
    assert store.quota.kept() == {old.owner: store.quota.used(old.owner)[0]}
    assert new.owner in run("list")
    run("purge", old.owner)
    assert store.quota.kept() == {}


def test_a_name_that_several_revoked_keys_had_is_not_guessed(store: Store, run: Run) -> None:
    """Their owners are named, to choose from."""
    owners = []
    for _ in range(2):
        owners.append(keyed(store, "alice").owner)
        run("revoke", "alice")
    said = run("purge", "alice", code=1)
    assert all(owner in said for owner in owners)
    run("purge", owners[0])
    assert "1 snapshots" in run("purge", "alice")


def test_data_without_any_key_is_listed(store: Store, run: Run) -> None:
    """That of a key that an earlier release revoked, or of one in GDSOLVER_API_KEY: not called revoked."""
    store.blobs.put_snapshot("0" * 16, "a" * 64, b"data")
    (row,) = [line for line in run("list").splitlines() if "0" * 16 in line]
    assert "no stored key" in row


def test_what_others_wrote_among_the_sums_and_the_revoked_is_passed_over(store: Store, run: Run) -> None:
    """No owners' names, no numbers, no keys."""
    key = keyed(store, "alice")
    run("revoke", "alice")
    store.redis.hset("gds:bytes", mapping={b"\xff": "12", "0" * 16: "many", "1" * 16: "-4", "x y": "3"})
    store.redis.hset("gds:apikeys-revoked", mapping={b"\xff": b"\xff", "b": "{}"})
    assert list(store.quota.kept()) == [key.owner]
    assert run("list").count("revoked") == 1
