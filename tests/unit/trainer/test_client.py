"""The client: what it retries, what it reports, and that it leaves the run's random state alone."""

import random

import httpx
import numpy as np
import pytest

from shared.contracts import Feedback, JobSpec, State
from shared.snapshot import Snapshot, snapshot_id
from tests.unit.trainer.fakes import FakePool, problem
from trainer import PoolRefusedError, PoolUnavailableError, ResultUnavailableError, SolverClient, WaitTimeoutError

SPEC = JobSpec(objective="ramp", radius=0.1)


@pytest.fixture
def snapshot() -> Snapshot:
    generator = np.random.default_rng(0)
    return Snapshot(
        task="classification",
        inputs=generator.random((6, 4), np.float32),
        targets=np.arange(6) % 3,
        weight=generator.random((3, 4), np.float32),
        bias=np.zeros(3, np.float32),
    )


def test_solves_in_one_call_and_reads_the_result(snapshot: Snapshot) -> None:
    """A multipart submission reaches the pool whole, and its weights come back with their report."""
    pool = FakePool()
    with pool.client() as client:
        job = client.wait(client.solve(snapshot, SPEC).id, timeout=5)
        candidate = client.result(job.id)
    assert job.state is State.SUCCEEDED
    np.testing.assert_array_equal(candidate.weight, snapshot.weight)
    assert candidate.result.objective.final == 1.0
    assert pool.snapshots[0].to_bytes() == snapshot.to_bytes()


def test_uploads_then_submits_by_id(snapshot: Snapshot) -> None:
    """Upload gives the snapshot's hash, and a job can name it."""
    client = FakePool().client()
    name = client.upload(snapshot)
    assert name == snapshot_id(snapshot.to_bytes())
    assert client.submit(SPEC.model_copy(update={"snapshot": name})).snapshot == name


def test_lists_and_looks_at_the_pool(snapshot: Snapshot) -> None:
    """Jobs, workers, stats and readiness are read, unknown fields ignored."""
    client = FakePool().client()
    client.solve(snapshot, SPEC)
    assert [job.id for job in client.jobs(run="x", state="running", limit=5)] == ["job-1"]
    assert client.workers() == []
    assert client.stats().slots == 1
    assert client.ready()


def stream(*lines: str) -> httpx.Response:
    return httpx.Response(200, text="\n".join([*lines, "", ""]), headers={"content-type": "text/event-stream"})


def test_events_are_followed_over_a_lost_connection() -> None:
    """A stream that breaks off is resumed after its last event; it ends with the terminal state."""
    asked: list[str | None] = []
    first = stream(": following", "", "id: 1-0", "event: state", 'data: {"state": "running"}')
    second = stream(
        "id: 2-0", "event: later", "data: {}", "", "id: 3-0", "event: state", 'data: {"state": "succeeded"}'
    )
    answers = [first, httpx.Response(503), second]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        return answers.pop(0)

    client = SolverClient("http://pool", transport=httpx.MockTransport(answer), sleep=lambda _: None)
    assert [event.data["state"] for event in client.events("job")] == ["running", "succeeded"]
    assert asked == [None, "1-0", "1-0"]


def test_events_that_cannot_be_had_are_an_error() -> None:
    """A pool that stays away or says no is reported; one that has nothing more to tell is not."""
    for status, error in ((503, PoolUnavailableError), (404, PoolRefusedError)):
        problem = {"title": "t", "status": status, "code": "not_found", "detail": "d"}
        transport = httpx.MockTransport(lambda _, s=status, p=problem: httpx.Response(s, json=p))
        client = SolverClient("http://pool", transport=transport, retries=2, sleep=lambda _: None)
        with pytest.raises(error):
            list(client.events("job"))
    nothing = httpx.MockTransport(lambda _: httpx.Response(204))
    assert list(SolverClient("http://pool", transport=nothing).events("job", after="3-0")) == []


def test_feedback_and_cancel_reach_the_pool(snapshot: Snapshot) -> None:
    """A verdict and a cancellation arrive at the job they are about."""
    pool = FakePool()
    client = pool.client()
    job = client.solve(snapshot, SPEC).id
    client.feedback(job, Feedback(accepted=True, before=0.5, after=0.6))
    client.cancel(job)
    assert pool.feedback[job]["accepted"] is True
    assert pool.cancelled == [job]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retries_keep_their_idempotency_key(snapshot: Snapshot, status: int) -> None:
    """A busy pool is asked again with the same key, so that one submission stays one job."""
    pool = FakePool()
    pool.script = [problem(status, "queue_full", "busy") for _ in range(2)]
    client = pool.client()
    client.solve(snapshot, SPEC)
    client.solve(snapshot, SPEC)
    first, second, third, other = (request.headers["Idempotency-Key"] for request in pool.requests)
    assert first == second == third != other


def test_retry_after_is_honoured(snapshot: Snapshot) -> None:
    """The pause before the next try is never shorter than the gateway's Retry-After."""
    pauses: list[float] = []
    pool = FakePool()
    pool.script = [problem(429, "queue_full", "busy", headers={"Retry-After": "7"})]
    pool.client(sleep=pauses.append).solve(snapshot, SPEC)
    assert len(pauses) == 1
    assert 7 <= pauses[0] <= 9


def test_pauses_grow() -> None:
    """Without a Retry-After the pauses roughly double."""
    pauses: list[float] = []
    pool = FakePool()
    pool.down = True
    with pytest.raises(PoolUnavailableError, match=r"pool\.test.*refused"):
        pool.client(sleep=pauses.append, retries=4).stats()
    assert len(pool.requests) == 5
    assert [0.125 * 2**k <= pause <= 0.25 * 2**k for k, pause in enumerate(pauses)] == [True] * 4


def test_a_long_retry_after_is_not_waited_for() -> None:
    """A pool that wants to be left alone for long counts as unavailable at once, with its own words."""
    pool = FakePool()
    pool.script = [problem(503, "store_unavailable", "Redis is away", headers={"Retry-After": "3600"})]
    with pytest.raises(PoolUnavailableError, match="Redis is away") as caught:
        pool.client().stats()
    assert caught.value.problem is not None
    assert len(pool.requests) == 1


def test_retrying_leaves_the_global_random_state_alone() -> None:
    """Jitter comes from a generator of the client's own."""
    pool = FakePool()
    pool.down = True
    before = random.getstate()
    with pytest.raises(PoolUnavailableError):
        pool.client().stats()
    assert random.getstate() == before


def test_a_refusal_names_the_field(snapshot: Snapshot) -> None:
    """problem+json becomes an error with code, field, detail and status, and is not retried."""
    pool = FakePool()
    pool.script = [problem(422, "invalid_spec", "must be > 0", field="radius")]
    with pytest.raises(PoolRefusedError, match="radius: must be > 0") as caught:
        pool.client().solve(snapshot, SPEC)
    error = caught.value
    assert (error.code, error.field, error.detail, error.status) == ("invalid_spec", "radius", "must be > 0", 422)
    assert len(pool.requests) == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"not": "a job"}', b"\xff\xfe"])
def test_another_server_is_recognised(body: bytes) -> None:
    """An answer that is not a pool's is one clear error."""
    pool = FakePool()
    pool.script = [httpx.Response(200, content=body)]
    with pytest.raises(PoolUnavailableError, match="like a GDSolver pool"):
        pool.client().stats()


def test_waiting_has_an_end_and_the_job_goes_on(snapshot: Snapshot) -> None:
    """A wait that runs out says so, and leaves the job alone."""
    pool = FakePool(held=True)
    client = pool.client()
    job = client.solve(snapshot, SPEC).id
    with pytest.raises(WaitTimeoutError, match="it goes on"):
        client.wait(job, timeout=0)
    assert pool.cancelled == []


def test_an_unfinished_result_is_unavailable(snapshot: Snapshot) -> None:
    """Asking too early for a result is told apart from other refusals."""
    client = FakePool(held=True).client()
    with pytest.raises(ResultUnavailableError, match="still running"):
        client.result(client.solve(snapshot, SPEC).id)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_broken_result_is_one_clear_error(snapshot: Snapshot, body: bytes) -> None:
    """Bytes that are not a result do not surface as a decoder's error."""
    pool = FakePool()
    client = pool.client()
    job = client.solve(snapshot, SPEC).id
    pool.script = [httpx.Response(200, content=body)]
    with pytest.raises(ResultUnavailableError, match="cannot be read"):
        client.result(job)


def test_ready_is_false_without_a_pool() -> None:
    """Readiness is asked once and never raises."""
    pool = FakePool()
    pool.down = True
    assert not pool.client().ready()
    assert len(pool.requests) == 1


@pytest.mark.parametrize("url", ["", "pool:8000", "ftp://pool", "http://"])
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    """A gateway address without scheme or host is a ValueError with an example."""
    with pytest.raises(ValueError, match="http://gateway:8000"):
        SolverClient(url)


def test_the_key_is_sent_as_a_bearer_token() -> None:
    """The API key travels in the Authorization header."""
    pool = FakePool()
    pool.client(api_key="secret").stats()
    assert pool.requests[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://gate\nway:8000",
        "http://gateway:8000\x1b/x",
        "http://gateway:80000000",
        "http://gate\udcffway",
        "http://" + "x" * 70_000,
        " ",
    ],
)
def test_a_url_that_cannot_be_read_is_named_like_a_wrong_one(url: str) -> None:
    """Whatever reads it, the error has the example, in one line."""
    with pytest.raises(ValueError, match=r"the gateway's URL is .*http://gateway:8000") as raised:
        SolverClient(url)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("url", ["http://gateway:8000/v1", "https://host/pool/v1/"])
def test_a_url_that_ends_with_the_version_says_to_leave_it_out(url: str) -> None:
    """Requests add it themselves, and would not be found."""
    with pytest.raises(ValueError, match=r"leave out `/v1`"):
        SolverClient(url)


@pytest.mark.parametrize("key", ["s3cret\nmore", "s3cret\x00", "s3cr\u00e9t", "s3cret\udcff", "s3\rcret"])
@pytest.mark.parametrize("told", ["argument", "variable"])
def test_a_key_that_is_none_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str, told: str) -> None:
    """The error names where a key comes from, and holds nothing of it."""
    argument = key
    if told == "variable":
        monkeypatch.setattr("os.environ", {"GDSOLVER_API_KEY": key})
        argument = ""
    with pytest.raises(ValueError, match=r"--api-key.*GDSOLVER_API_KEY.*ASCII") as raised:
        SolverClient("http://pool", argument)
    assert "s3" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_blanks_around_url_and_key_do_not_count() -> None:
    """As a file's last line end leaves them, or a copy from a page."""
    pool = FakePool()
    client = SolverClient(" http://pool.test/\n", "\tsecret\r\n", transport=pool)
    client.stats()
    assert client.url == "http://pool.test"
    assert pool.requests[0].headers["Authorization"] == "Bearer secret"
    SolverClient("http://pool.test", "\n", transport=pool).stats()
    assert "Authorization" not in pool.requests[1].headers
