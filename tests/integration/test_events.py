"""Server-sent events and long polls on a real Redis: what is told, where it resumes, and that nobody is held for it."""

import threading
import time
from functools import partial

from starlette.testclient import TestClient

from shared.contracts import Progress
from solver_service.rules import jobs
from solver_service.store import keys
from tests.conftest import wait_for
from tests.integration.test_gateway import Gateway, assert_problem, finish, post, upload
from trainer.pool.client import read_events

PROGRESS = Progress(t_s=1, objective=2, bound=1, gap=0.5, nodes=3)


def told(client: TestClient, job: str, **headers: str) -> list[tuple[str, object, str | None]]:
    response = client.get(f"/v1/jobs/{job}/events", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return [
        (event.kind, event.data.get("state", event.data.get("objective")), event.id)
        for event in read_events(response.iter_lines())
    ]


def begin(gateway: Gateway, job: str) -> None:
    store = gateway.store
    store.jobs.update(job, partial(jobs.claim, worker="w", now=store.jobs.now()))


def test_a_job_is_told_from_its_beginning_to_its_end(gateway: Gateway, client: TestClient) -> None:
    """State, incumbent and state again, in order; the stream ends with the terminal state."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    begin(gateway, job)
    gateway.store.jobs.update(job, partial(jobs.report, progress=PROGRESS, attempt=1))
    finish(gateway, job)
    events = told(client, job)
    assert [kind for kind, _, _ in events] == ["state", "state", "incumbent", "state"]
    assert [value for _, value, _ in events[:3]] == ["queued", "running", 2]
    assert len({number for _, _, number in events}) == 4


def test_events_arrive_while_they_happen(gateway: Gateway, client: TestClient) -> None:
    """Whoever follows an unfinished job hears of its end at once, not at the next look."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    ending = threading.Timer(0.5, finish, (gateway, job))
    began = time.monotonic()
    ending.start()
    assert told(client, job)[-1][0] == "state"
    assert time.monotonic() - began < 5
    ending.join()


def test_waiters_outlive_a_word_that_nobody_understands(gateway: Gateway, client: TestClient) -> None:
    """While a pool is upgraded its parts may speak differently: whoever waits hears of the end all the same."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    wait_for(lambda: bool(gateway.store.redis.publish(keys.CHANGED, f"{job}{{}}")))
    ending = threading.Timer(0.8, finish, (gateway, job))
    began = time.monotonic()
    ending.start()
    assert client.get(f"/v1/jobs/{job}", params={"wait": 30}).json()["state"] == "succeeded"
    assert time.monotonic() - began < 5
    ending.join()


def test_a_lost_connection_resumes_where_it_was(gateway: Gateway, client: TestClient) -> None:
    """`Last-Event-ID` leaves out what was heard; after the last event there is nothing to connect for: 204."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    finish(gateway, job)
    events = told(client, job)
    assert told(client, job, **{"Last-Event-ID": str(events[0][2])}) == events[1:]
    after = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(events[-1][2])})
    assert after.status_code == 204


def test_a_job_whose_events_have_expired_still_says_how_it_ended(gateway: Gateway, client: TestClient) -> None:
    """The record outlives the stream: the terminal state is told from it."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    finish(gateway, job)
    gateway.store.redis.delete(keys.events(job))
    (event,) = told(client, job)
    assert event[0] == "state"
    assert event[2] is None


def test_streams_are_bounded_in_length_and_time(gateway: Gateway, client: TestClient) -> None:
    """However many incumbents there are, about a thousand are kept, and not for ever."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    begin(gateway, job)
    for number in range(1300):
        progress = PROGRESS.model_copy(update={"nodes": number})
        gateway.store.jobs.update(job, partial(jobs.report, progress=progress, attempt=1))
    assert gateway.store.redis.xlen(keys.events(job)) < 1200
    assert gateway.store.redis.ttl(keys.events(job)) > 0


def test_events_are_refused_as_jobs_are(client: TestClient) -> None:
    """Unknown jobs give 404, a `Last-Event-ID` that is none 422."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    assert_problem(client.get(f"/v1/jobs/{'0' * 32}/events"), 404, "not_found")
    wrong = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "yesterday"})
    assert_problem(wrong, 422, "invalid_spec", "Last-Event-ID")


def test_a_long_poll_ends_with_the_job(gateway: Gateway, client: TestClient) -> None:
    """`wait` answers as soon as the job has ended, and many waiters are told at once."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    answers: list[tuple[str, float]] = []
    began = time.monotonic()

    def wait() -> None:
        state = client.get(f"/v1/jobs/{job}", params={"wait": 30}).json()["state"]
        answers.append((state, time.monotonic() - began))

    waiters = [threading.Thread(target=wait) for _ in range(20)]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.5)
    finish(gateway, job)
    for waiter in waiters:
        waiter.join()
    assert {state for state, _ in answers} == {"succeeded"}
    assert max(seconds for _, seconds in answers) < 8
