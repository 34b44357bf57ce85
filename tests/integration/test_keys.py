"""Several API keys on one gateway: scopes, owners who never meet, revocation, guesses, and each key's limits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from shared.plain import plain
from solver_service.cli import app
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.store import Store
from tests.conftest import small_snapshot
from tests.integration.test_gateway import OCTETS, SPEC, Gateway, assert_problem, finish, post, upload

PRINTING = """
import typer
from trainer.lab.commands.surroundings import clear_words, out

@clear_words()
def command(redis: str) -> None:
    out.print("words")

typer.run(command)
"""
SUBMITTER = frozenset({Scope.SUBMIT, Scope.READ})


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    made = Gateway(
        Settings(
            redis_url=redis_url,
            max_submissions_per_minute=6,
            max_unfinished_per_key=4,
            max_stored_bytes_per_key=100_000,
            max_stored_bytes=300_000,
            max_failed_logins=3,
        )
    )
    yield made
    made.store.close()


@pytest.fixture
def http(gateway: Gateway) -> Iterator[TestClient]:
    with gateway.client() as opened:
        yield opened


def keyed(gateway: Gateway, name: str, scopes: frozenset[Scope] = SUBMITTER, owner: str | None = None) -> TestClient:
    """A client with a new key; it needs the gateway's life to be held open by another one."""
    key, token = create_key(name, scopes, now=gateway.store.jobs.now(), owner=owner)
    gateway.store.apikeys.add(key)
    return gateway.client(headers={"authorization": f"Bearer {token}"})


@pytest.mark.usefixtures("http")
def test_one_key_never_meets_another_ones_things(gateway: Gateway) -> None:
    """Ids, results, snapshots, lists, runs, supersede and idempotency keys end at the key that made them."""
    alice, bob = keyed(gateway, "alice"), keyed(gateway, "bob")
    snapshot = upload(alice)
    job = str(post(alice, {"snapshot": snapshot, "run": "r"}, **{"Idempotency-Key": "k"})["id"])
    finished = str(post(alice, {"snapshot": snapshot})["id"])
    finish(gateway, finished)

    for call in (
        bob.get(f"/v1/jobs/{job}"),
        bob.get(f"/v1/jobs/{job}", params={"wait": 1}),
        bob.get(f"/v1/jobs/{finished}/result"),
        bob.get(f"/v1/jobs/{job}/events"),
        bob.get(f"/v1/jobs/{job}/problem"),
        bob.delete(f"/v1/jobs/{job}"),
        bob.post(f"/v1/jobs/{finished}/feedback", json={"accepted": True}),
        bob.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}),
    ):
        assert_problem(call, 404, "not_found")
    assert bob.head(f"/v1/snapshots/{snapshot}").status_code == 404
    for query in ({}, {"run": "r"}, {"cursor": "f" * 32}, {"state": "succeeded"}):
        assert bob.get("/v1/jobs", params=query).json()["jobs"] == []

    assert upload(bob) == snapshot
    theirs = post(bob, {"snapshot": snapshot, "run": "r", "supersede": True}, **{"Idempotency-Key": "k"})
    assert theirs["id"] != job
    assert alice.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert alice.get(f"/v1/jobs/{finished}/result").status_code == 200


@pytest.mark.usefixtures("http")
def test_scopes(gateway: Gateway) -> None:
    """A key without the scope gets a 403 that names it: submit, read, and admin for the pool as a whole."""
    reader = keyed(gateway, "reader", frozenset({Scope.READ}))
    admin = keyed(gateway, "admin", frozenset({Scope.ADMIN}))
    submitter = keyed(gateway, "submitter", frozenset({Scope.SUBMIT}))
    body = small_snapshot().to_bytes()
    for refused, scope in (
        (reader.post("/v1/snapshots", content=body, headers=OCTETS), "submit"),
        (reader.post("/v1/jobs", json=SPEC), "submit"),
        (reader.delete(f"/v1/jobs/{'0' * 32}"), "submit"),
        (admin.get("/v1/jobs"), "read"),
        (submitter.get("/v1/workers"), "admin"),
        (reader.get("/v1/stats"), "admin"),
        (submitter.get("/metrics"), "admin"),
    ):
        assert_problem(refused, 403, "forbidden", "Authorization")
        assert f"`{scope}`" in refused.json()["detail"]
    for allowed in (
        reader.get("/v1/jobs"),
        reader.get("/metrics"),
        admin.get("/metrics"),
        admin.get("/v1/workers"),
        admin.get("/v1/stats"),
        submitter.get("/v1/jobs"),
    ):
        assert allowed.status_code == 200


def test_a_revoked_key_is_refused_at_once(gateway: Gateway, http: TestClient) -> None:
    """Revocation needs no restart and no wait, and never makes the pool keyless again."""
    alice = keyed(gateway, "alice")
    assert alice.get("/v1/jobs").status_code == 200
    assert gateway.store.apikeys.revoke("alice") is not None
    assert_problem(alice.get("/v1/jobs"), 401, "unauthorized", "Authorization")
    assert_problem(http.get("/v1/jobs"), 401, "unauthorized", "Authorization")
    assert gateway.store.apikeys.revoke("alice") is None


@pytest.mark.usefixtures("http")
def test_a_key_can_be_replaced(gateway: Gateway) -> None:
    """A key made with another one's owner finds that one's jobs after it was revoked."""
    alice = keyed(gateway, "alice")
    job = post(alice, {"snapshot": upload(alice)})["id"]
    (known,) = gateway.store.apikeys.all()
    watcher = keyed(gateway, "watcher", frozenset({Scope.READ}), owner=known.owner)
    gateway.store.apikeys.revoke("alice")
    assert watcher.get(f"/v1/jobs/{job}").status_code == 200


def test_a_guess_loop_is_throttled_and_costs_others_nothing(gateway: Gateway, http: TestClient) -> None:
    """After a few wrong keys from one address a 429 says when to come back; a right key passes all the while."""
    alice = keyed(gateway, "alice")
    _, other = create_key("never stored", SUBMITTER, now=0)
    guesses = [http.get("/v1/jobs", headers={"authorization": f"Bearer {guess}"}) for guess in ["x", other] * 3]
    assert [guess.status_code for guess in guesses] == [401, 401, 401, 429, 429, 429]
    assert_problem(guesses[-1], 429, "too_many_failures")
    assert 0 < int(guesses[-1].headers["retry-after"]) <= 60
    assert alice.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(("key", "after"), [("short", 429), ("k" * 32, 200)])
def test_a_key_that_could_be_guessed_waits_with_the_guesses(redis_url: str, key: str, after: int) -> None:
    """While an address is throttled a short GDSOLVER_API_KEY is not even compared; one of 32 characters is."""
    made = Gateway(Settings(redis_url=redis_url, api_key=key, max_failed_logins=2))  # type: ignore[arg-type]
    with made.client() as client:
        for _ in range(3):
            client.get("/v1/jobs", headers={"authorization": "Bearer wrong"})
        assert client.get("/v1/jobs", headers={"authorization": f"Bearer {key}"}).status_code == after
    made.store.close()


@pytest.mark.usefixtures("http")
def test_unfinished_jobs_are_limited_per_key(gateway: Gateway) -> None:
    """A key with as many unfinished jobs as it may have waits for one of them; others do not."""
    alice, bob = keyed(gateway, "alice"), keyed(gateway, "bob")
    snapshot = upload(alice)
    mine = [str(post(alice, {"snapshot": snapshot})["id"]) for _ in range(4)]
    refused = alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot})
    assert_problem(refused, 429, "too_many_jobs")
    assert refused.headers["retry-after"]
    assert "GDSOLVER_MAX_UNFINISHED_PER_KEY" in refused.json()["detail"]
    post(bob, {"snapshot": upload(bob)})
    finish(gateway, mine[0])
    post(alice, {"snapshot": snapshot})


@pytest.mark.usefixtures("http")
def test_submissions_a_minute_are_limited_per_key(gateway: Gateway) -> None:
    """A key that submits too fast is told to wait for its next turn; another key's bucket is its own."""
    alice, bob = keyed(gateway, "alice"), keyed(gateway, "bob")
    snapshot = upload(alice)
    for _ in range(6):
        alice.delete(f"/v1/jobs/{post(alice, {'snapshot': snapshot})['id']}")
    refused = alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot})
    assert_problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert "GDSOLVER_MAX_SUBMISSIONS_PER_MINUTE" in refused.json()["detail"]
    post(bob, {"snapshot": upload(bob)})


@pytest.fixture
def narrow(redis_url: str) -> Iterator[Gateway]:
    """A gateway that keeps little."""
    made = Gateway(Settings(redis_url=redis_url, max_stored_bytes_per_key=20_000, max_stored_bytes=30_000))
    with made.client():
        yield made
    made.store.close()


def fill(client: TestClient) -> int:
    """Upload until no more is taken; how many bytes were."""
    taken = 0
    for seed in range(100):
        data = small_snapshot(seed).to_bytes()
        answer = client.post("/v1/snapshots", content=data, headers=OCTETS)
        if answer.status_code == 429:
            assert_problem(answer, 429, "storage_full")
            assert answer.headers["retry-after"]
            break
        taken += len(data)
    return taken


def test_bytes_are_limited_per_key(narrow: Gateway) -> None:
    """What a key keeps is summed; the same bytes again cost nothing; expired ones are taken off the sum."""
    store = narrow.store
    alice = keyed(narrow, "alice")
    taken = fill(alice)
    assert taken <= 20_000
    upload(alice, 0)
    assert store.quota.used("")[1] == taken
    for name, _ in store.redis.zscan_iter("gds:blob-ends"):
        store.redis.zadd("gds:blob-ends", {name: 1})
    assert store.quota.used("")[1] == 0
    upload(alice, 8)


def test_keys_that_keep_all_they_may_leave_room_for_another(narrow: Gateway) -> None:
    """However many keys fill their shares, the next one finds room, and all together stay below what the pool keeps."""
    for number in range(4):
        assert fill(keyed(narrow, f"key-{number}")) > 0
        assert narrow.store.quota.used("")[1] <= 30_000


def test_records_count_towards_what_a_key_keeps(narrow: Gateway) -> None:
    """A key that submits without end is told that it keeps too much, whether or not it uploads; another one is not."""
    alice = keyed(narrow, "alice")
    snapshot = upload(alice)
    answers = [alice.post("/v1/jobs", json={**SPEC, "snapshot": snapshot}) for _ in range(8)]
    assert_problem(answers[-1], 429, "storage_full")
    assert narrow.store.quota.used("")[1] <= 30_000
    bob = keyed(narrow, "bob")
    post(bob, {"snapshot": upload(bob)})


def test_keys_count_once_one_is_stored(gateway: Gateway, http: TestClient) -> None:
    """A keyless loopback gateway asks for keys a second after the first one was stored, and serves other hosts then."""
    assert http.get("/v1/jobs").status_code == 200
    alice = keyed(gateway, "alice")
    gateway.app.state.services.door._asked -= 2
    assert_problem(http.get("/v1/jobs"), 401, "unauthorized")
    assert alice.get("/v1/jobs", headers={"host": "pool.example"}).status_code == 200


def test_the_commands(redis_url: str) -> None:
    """`keys add` prints a key that opens, once; `list` shows it without; `revoke` ends it."""
    store = Store.open(Settings(redis_url=redis_url))
    store.redis.flushall()
    run = CliRunner()
    where = ["--redis-url", redis_url]
    added = run.invoke(app, ["keys", "add", "alice", "--scope", "submit,admin", *where])
    assert added.exit_code == 0, added.output
    token = added.stdout.strip()
    (key,) = store.apikeys.all()
    assert key.opens_with(token)
    assert key.scopes == {Scope.SUBMIT, Scope.ADMIN}
    listed = run.invoke(app, ["keys", "list", *where])
    assert "alice" in listed.stdout
    assert token not in listed.stdout
    assert run.invoke(app, ["keys", "add", "alice", *where]).exit_code == 1
    assert run.invoke(app, ["keys", "add", "bob", "--scope", "root", *where]).exit_code == 1
    shared = run.invoke(app, ["keys", "add", "alice-2", "--same-owner-as", "alice", *where])
    assert shared.exit_code == 0
    assert len({key.owner for key in store.apikeys.all()}) == 1
    assert run.invoke(app, ["keys", "revoke", key.id, *where]).exit_code == 0
    assert run.invoke(app, ["keys", "revoke", "alice", *where]).exit_code == 1
    assert [left.name for left in store.apikeys.all()] == ["alice-2"]
    away = run.invoke(app, ["keys", "list", "--redis-url", "unix:///nowhere/redis.sock"])
    assert away.exit_code == 1
    assert "Redis" in away.stderr
    store.close()


def test_a_keys_weight_is_set_and_shown(gateway: Gateway, redis_url: str) -> None:
    """`keys weight` speaks of a key or an owner; what is no weight, and a key that is none, are refused in a line."""
    run, where = CliRunner(), ["--redis-url", redis_url]
    key, _ = create_key("heavy", SUBMITTER, now=gateway.store.jobs.now())
    gateway.store.apikeys.add(key)
    gateway.store.apikeys.add(create_key("light", SUBMITTER, now=gateway.store.jobs.now())[0])
    said = run.invoke(app, ["keys", "weight", "heavy", "2.5", *where])
    assert said.output == "weight of heavy is 2.5\n"
    assert run.invoke(app, ["keys", "weight", "local", "4", *where]).exit_code == 0
    assert gateway.store.turns.weights() == {key.owner: 2.5, "local": 4.0}
    rows = run.invoke(app, ["keys", "list", *where], env={"COLUMNS": "200"}).output.splitlines()
    shown = {row.split("│")[2].strip(): row.split("│")[5].strip() for row in rows if row.startswith("│")}
    assert shown == {"heavy": "2.5", "light": "1"}
    for words in (["heavy", "0"], ["heavy", "nan"], ["nobody", "2"]):
        refused = run.invoke(app, ["keys", "weight", *words, *where])
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1)


def test_status_shows_the_pool(gateway: Gateway, redis_url: str, tmp_path: object) -> None:
    """`status --json` prints one look at the pool and writes it: workers, queue, running jobs, last results."""
    with gateway.client() as client:
        ended = str(post(client, {"snapshot": upload(client), "run": "a\x1b[31m[b]"})["id"])
        finish(gateway, ended)
        waiting = str(post(client, {"snapshot": upload(client), "priority": "high"})["id"])
    gateway.store.workers.beat("w", host="h", pid=1, slots=2)
    file = Path(str(tmp_path)) / "status.json"
    done = CliRunner().invoke(app, ["status", "--json", str(file), "--redis-url", redis_url])
    assert done.exit_code == 0, done.output
    assert "\x1b[31m" not in done.stdout
    found = json.loads(file.read_text())
    assert found["workers"][0]["name"] == "w"
    assert found["waiting"]["high"]["jobs"] == 1
    assert [job["id"] for job in found["last"]] == [ended]
    assert waiting not in done.stdout
    assert found["finished"]["succeeded"] == 1


@pytest.mark.parametrize("width", [80, None], ids=["terminal", "pipe"])
def test_what_other_commands_need_is_shown_whole(
    gateway: Gateway, redis_url: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, names and owners of keys, and the end of a job's id, also where 80 columns are all that there is."""
    gateway.store.redis.flushall()
    if width is not None:
        monkeypatch.setattr("solver_service.pool.opening.PIPE_WIDTH", width)
    made = [create_key(f"grafana-dashboard-{name}", SUBMITTER, now=0) for name in ("prod", "test")]
    for key, _ in made:
        gateway.store.apikeys.add(key)
    with gateway.client(headers={"authorization": f"Bearer {made[0][1]}"}) as client:
        run = "a-run-with-a-name-of-some-length"
        ended = [str(post(client, {"snapshot": upload(client), "run": run})["id"]) for _ in range(2)]
    for job in ended:
        finish(gateway, job)
    where = ["--redis-url", redis_url]
    listed = CliRunner().invoke(app, ["keys", "list", *where], env={"COLUMNS": "80"}).output
    assert all(key.id in listed and key.owner in listed for key, _ in made)
    told = CliRunner().invoke(app, ["status", "--once", *where], env={"COLUMNS": "80"}).output
    assert all(job[-12:] in told for job in ended)
    assert "\N{HORIZONTAL ELLIPSIS}" not in listed + told
    if width is None:
        assert all(key.name in listed for key, _ in made)
        assert told.count(run) == 2


NAMES = ["run[fold 1]", "[/b]exp", "[bold]x", "a\x1b[31m\u202e\rb"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_and_nothing_of_them_is_obeyed(gateway: Gateway, redis_url: str, name: str) -> None:
    """Of keys, runs and workers, whoever gave them: brackets are no markup, and no control character comes through."""
    run, where, wide = CliRunner(), ["--redis-url", redis_url], {"COLUMNS": "250"}
    gateway.store.redis.flushall()
    key, token = create_key(name, SUBMITTER, now=gateway.store.jobs.now())
    gateway.store.apikeys.add(key)
    gateway.store.apikeys.add(create_key("other", SUBMITTER, now=0, owner=key.owner)[0])
    gateway.store.workers.beat(name, host=name, pid=1, slots=2)
    with gateway.client(headers={"authorization": f"Bearer {token}"}) as client:
        finish(gateway, str(post(client, {"snapshot": upload(client), "run": name})["id"]))
    shown = [(["keys", "list"], 1), (["status", "--once"], 3), (["keys", "weight", "other", "2"], 1)]
    for words, times in [*shown, (["keys", "revoke", key.id], 1)]:
        said = run.invoke(app, [*words, *where], env=wide)
        assert said.exit_code == 0, said.output
        assert said.output.count(plain(name)) == times
        assert all(letter.isprintable() or letter == "\n" for letter in said.output)


@pytest.mark.parametrize("place", ["folder", "missing", "file", "long"])
def test_a_status_that_cannot_be_written_is_one_line(
    gateway: Gateway, redis_url: str, tmp_path: Path, place: str
) -> None:
    """It names the option and the file."""
    (tmp_path / "x").write_text("")
    places = {"folder": ".", "missing": "no/status.json", "file": "x/status.json", "long": "x" * 300}
    done = CliRunner().invoke(app, ["status", "--json", str(tmp_path / places[place]), "--redis-url", redis_url])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"gdsolver-pool: --json: {tmp_path}")
    assert done.output.count("\n") == 1


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gdsolver-pool", ["-m", "solver_service", "status", "--redis-url"]),
        ("gdsolver-pool", ["-m", "solver_service", "status", "--once", "--redis-url"]),
        ("gdsolver-pool", ["-m", "solver_service", "keys", "list", "--redis-url"]),
        ("gdsolver", ["-c", PRINTING]),
    ],
)
def test_an_output_that_takes_nothing_is_one_line(
    gateway: Gateway, redis_url: str, name: str, words: list[str], buffered: bool
) -> None:
    """A full disk behind the output is no traceback; a reader who has seen enough is no error at all."""
    command = [sys.executable, *words, redis_url]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=env)
    assert (done.returncode, done.stderr) == (1, f"{name}: [Errno 28] No space left on device\n")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as piped:
        assert piped.stdout is not None
        assert piped.stderr is not None
        piped.stdout.close()
        assert piped.stderr.read() == ""
        piped.wait(60)


def test_status_ends_by_itself_where_no_terminal_shows_it(gateway: Gateway, redis_url: str) -> None:
    """`gdsolver-pool status | head -2` is answered once."""
    command = [sys.executable, "-m", "solver_service", "status", "--redis-url", redis_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0
    assert "queued: " in done.stdout


@pytest.mark.parametrize("turns", ["-1", "-0.5", "-inf", "0", "1e-17", "1e-320", "1001", "inf"])
def test_a_weight_out_of_bounds_is_no_weight(gateway: Gateway, redis_url: str, turns: str) -> None:
    """One below 0 is a number that is refused, too, and not an option that nobody knows."""
    refused = CliRunner().invoke(app, ["keys", "weight", "local", turns, "--redis-url", redis_url])
    assert refused.exit_code == 1
    assert refused.output == f"gdsolver-pool: {float(turns):g} is no weight: a weight is from 0.001 to 1,000\n"
