"""Batches over HTTP: all jobs or none, one id to wait for, best first, cancelled together, counted as jobs are."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from shared.batches import BatchStatus
from shared.contracts import JobSpec
from solver_service import purge, weights
from solver_service.milp.core.moved import Moved
from solver_service.rules import jobs, owners
from solver_service.settings import Settings
from solver_service.store import keys
from tests.conftest import ROOT, RunningPool, sent, small_snapshot
from tests.integration.test_gateway import Gateway, assert_problem, post, upload
from tests.unit.service.test_jobs import RESULT
from trainer.pool.client import SolverClient

KEY = "k" * 40


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    made = Gateway(Settings(redis_url=redis_url, max_queued=20))
    yield made
    made.store.close()


def specs(*radii: float, **more: Any) -> list[dict[str, Any]]:
    return [{"objective": "ramp", "radius": radius, **more} for radius in radii]


def send(client: TestClient, *radii: float, headers: dict[str, str] | None = None, **more: Any) -> BatchStatus:
    body = {"snapshot": upload(client), "specs": specs(*radii, **more)}
    response = client.post("/v1/batches", json=body, headers=headers)
    assert response.status_code == 202, response.text
    return BatchStatus.model_validate(response.json())


def show(client: TestClient, batch: BatchStatus, **params: Any) -> BatchStatus:
    return BatchStatus.model_validate(client.get(f"/v1/batches/{batch.id}", params=params).json())


def finish(gateway: Gateway, job_id: str, final: float) -> None:
    store = gateway.store
    objective = RESULT.objective.model_copy(update={"final": final})
    result = RESULT.model_copy(update={"objective": objective})
    store.jobs.update(job_id, partial(jobs.claim, worker="w", now=store.jobs.now()))
    data = weights.encode(Moved(small_snapshot().weight, None), result)
    store.jobs.update(job_id, partial(jobs.finish, result=result, attempt=1, now=store.jobs.now()), result=data)


def test_a_batch_is_queued_and_compared(gateway: Gateway, client: TestClient) -> None:
    """Each spec is a job of its own, sent in order; results are ranked, and each job says whose it is."""
    batch = send(client, 0.1, 0.2, 0.3)
    ids = [job.id for job in batch.jobs]
    assert sent(gateway.store.redis) == ids
    assert batch.counts["queued"] == 3  # type: ignore[index]
    for job_id, final in zip(ids, (3.0, 1.0, 2.0), strict=True):
        finish(gateway, job_id, final)
    found = show(client, batch)
    assert [job.number for job in found.groups[0].jobs] == [1, 2, 0]
    assert found.ended
    record = client.get(f"/v1/jobs/{ids[1]}").json()
    assert (record["batch"], record["spec"]["radius"]) == (batch.id, 0.2)


def test_the_snapshot_comes_named_inline_or_as_a_file(client: TestClient) -> None:
    """As with single jobs; the form's field may be a file as well."""
    snapshot = small_snapshot()
    lists = {name: array.tolist() for name, array in snapshot.tensors().items()}
    inline = {"task": "classification", "tensors": lists}
    body = json.dumps({"specs": specs(0.1, 0.2)})
    file = ("stall.safetensors", snapshot.to_bytes())
    answers = [
        client.post("/v1/batches", json={"snapshot": upload(client), "specs": specs(0.1, 0.2)}),
        client.post("/v1/batches", json={"snapshot": inline, "specs": specs(0.1, 0.2)}),
        client.post("/v1/batches", data={"batch": body}, files={"snapshot": file}),
        client.post("/v1/batches", files={"snapshot": file, "batch": ("batch.json", body)}),
    ]
    assert [answer.status_code for answer in answers] == [202] * 4, [answer.text for answer in answers]
    assert len({answer.json()["snapshot"] for answer in answers}) == 1
    assert answers[0].headers["location"] == f"/v1/batches/{answers[0].json()['id']}"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"radius": -1}, "specs[3].radius"),
        ({"objective": "mae"}, "specs[3].objective"),
        ({"snapshot": "0" * 64}, "specs[3].snapshot"),
        ({"constraints": [{"type": "grid", "value": 0.5, "indices": [99]}]}, "specs[3].constraints.0.indices"),
        ({"limits": {"time_s": 1e9}}, "specs[3].limits.time_s"),
        ({"radius": None}, "specs[3].radius"),
        ({"supersede": True}, "specs[3].supersede"),
        ({"tail_radius": -1}, "specs[3].tail_radius"),
        ({"tail_radius": [0.1, -1]}, "specs[3].tail_radius.1"),
        ({"solver": {"params": {"x": "x"}}}, "specs[3].solver.params.x"),
        ({"tags": {"": "x"}}, "specs[3].tags"),
    ],
)
def test_one_wrong_spec_refuses_all(gateway: Gateway, client: TestClient, wrong: dict[str, Any], field: str) -> None:
    """The answer names the spec and its field, and no job is made."""
    body = {"snapshot": upload(client), "specs": [*specs(0.1, 0.2, 0.3), {**specs(0.4)[0], **wrong}]}
    assert_problem(client.post("/v1/batches", json=body), 422, "invalid_spec", field)
    assert sent(gateway.store.redis) == []
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"specs": []}, "specs"),
        ({"specs": specs(*(0.1 for _ in range(65)))}, "specs"),
        ({"specs": specs(0.1), "radius": 1}, "radius"),
        ({"specs": specs(0.1)}, "snapshot"),
        ({"snapshot": "0" * 64, "specs": specs(0.1)}, "snapshot"),
    ],
)
def test_a_batch_has_its_form(client: TestClient, body: dict[str, Any], field: str) -> None:
    """One to 64 specs and a snapshot that is there, and nothing else."""
    response = client.post("/v1/batches", json=body)
    assert response.status_code in (404, 422)
    assert response.json()["field"] == field
    assert_problem(
        client.post("/v1/batches", content=b"{", headers={"content-type": "application/json"}),
        422,
        "invalid_spec",
        "batch",
    )


def test_a_batch_that_has_no_room_queues_nothing(gateway: Gateway, client: TestClient) -> None:
    """Where the queue would be full before its last job, none is queued."""
    send(client, *(0.1 for _ in range(15)))
    body = {"snapshot": upload(client), "specs": specs(*(0.1 for _ in range(6)))}
    assert_problem(client.post("/v1/batches", json=body), 429, "queue_full")
    assert len(sent(gateway.store.redis)) == 15
    send(client, *(0.1 for _ in range(5)))


def test_the_same_key_finds_the_same_batch(client: TestClient) -> None:
    """As for single jobs: another body is refused, also where the other submission was no batch."""
    key = {"Idempotency-Key": "abc"}
    first = send(client, 0.1, 0.2, headers=key)
    assert send(client, 0.1, 0.2, headers=key).id == first.id
    assert len(client.get("/v1/jobs").json()["jobs"]) == 2
    snapshot = upload(client)
    other = client.post("/v1/batches", json={"snapshot": snapshot, "specs": specs(0.1)}, headers=key)
    assert_problem(other, 422, "idempotency_mismatch", "Idempotency-Key")
    single = client.post("/v1/jobs", json={**specs(0.1)[0], "snapshot": snapshot}, headers=key)
    assert_problem(single, 422, "idempotency_mismatch", "Idempotency-Key")
    post(client, {"snapshot": snapshot}, **{"Idempotency-Key": "def"})
    batch = client.post(
        "/v1/batches", json={"snapshot": snapshot, "specs": specs(0.1)}, headers={"Idempotency-Key": "def"}
    )
    assert_problem(batch, 422, "idempotency_mismatch", "Idempotency-Key")


def test_who_waits_is_told_when_the_last_job_ends(gateway: Gateway, client: TestClient) -> None:
    """`wait` answers at the end of all jobs and not before, and so does a submission that prefers to wait."""
    batch = send(client, 0.1, 0.2)
    finish(gateway, batch.jobs[0].id, 1.0)
    assert not show(client, batch, wait=0.2).ended
    last = threading.Timer(0.5, finish, (gateway, batch.jobs[1].id, 2.0))
    last.start()
    assert show(client, batch, wait=30).ended
    last.join()
    patient = client.post(
        "/v1/batches", json={"snapshot": upload(client), "specs": specs(0.1)}, headers={"Prefer": "wait=1"}
    )
    assert patient.headers["preference-applied"] == "wait=1"


def test_a_batch_is_cancelled_together(gateway: Gateway, client: TestClient) -> None:
    """What is queued ends, what runs is interrupted, what has ended stays: 202 until nothing runs."""
    batch = send(client, 0.1, 0.2, 0.3)
    done, running, _ = (job.id for job in batch.jobs)
    finish(gateway, done, 1.0)
    gateway.store.jobs.update(running, partial(jobs.claim, worker="w", now=gateway.store.jobs.now()))
    response = client.delete(f"/v1/batches/{batch.id}")
    assert response.status_code == 202
    assert [job.state.value for job in BatchStatus.model_validate(response.json()).jobs] == [
        "succeeded",
        "running",
        "cancelled",
    ]
    finish(gateway, running, 2.0)
    again = client.delete(f"/v1/batches/{batch.id}")
    assert (again.status_code, again.json()["counts"]["cancelled"]) == (200, 2)


def test_a_batch_supersedes_what_came_before_it_and_none_of_its_own(client: TestClient) -> None:
    """Older jobs of the run are cancelled, however many of its specs say so; its own are not."""
    older = post(client, {"snapshot": upload(client), "run": "r"})["id"]
    batch = send(client, 0.1, 0.2, run="r", supersede=True)
    assert client.get(f"/v1/jobs/{older}").json()["state"] == "cancelled"
    assert show(client, batch).counts["queued"] == 2  # type: ignore[index]


def test_a_batch_ends_with_its_last_job(gateway: Gateway, client: TestClient) -> None:
    """It is there as long as a record of its jobs is; then nothing of it is, counted or stored."""
    before = gateway.store.quota.used("local")[0]
    batch = send(client, 0.1, 0.2)
    gateway.store.quota.drop([keys.job(batch.jobs[0].id)])
    assert [job.number for job in show(client, batch).jobs] == [1]
    gateway.store.quota.drop([keys.job(batch.jobs[1].id), keys.snapshot("local", batch.snapshot)])
    assert_problem(client.get(f"/v1/batches/{batch.id}"), 404, "not_found", "id")
    assert gateway.store.quota.used("local")[0] == before
    assert list(gateway.store.redis.scan_iter("gds:batch:*")) == []


def test_a_purge_takes_batches_along(gateway: Gateway, client: TestClient) -> None:
    """Nothing of a key's batches outlives the purge of its things."""
    send(client, 0.1, 0.2)
    purge.purge(gateway.store, "local")
    assert list(gateway.store.redis.scan_iter("gds:batch:*")) == []
    assert gateway.store.quota.used("local")[0] == 0


def test_a_batch_counts_its_jobs(redis_url: str) -> None:
    """A key's limits are those of as many single jobs: refused whole, and told when to come back."""
    settings = Settings(
        redis_url=redis_url, api_key=SecretStr(KEY), max_submissions_per_minute=12, max_unfinished_per_key=9
    )
    gateway = Gateway(settings)
    with gateway.client(headers={"authorization": f"Bearer {KEY}"}) as client:
        first = send(client, *(0.1 for _ in range(6)))
        body = {"snapshot": first.snapshot, "specs": specs(0.1, 0.2, 0.3, 0.4)}
        assert_problem(client.post("/v1/batches", json=body), 429, "too_many_jobs")
        client.delete(f"/v1/batches/{first.id}")
        send(client, 0.1, 0.2, 0.3)  # 12 less 6, 1 and 3
        refused = client.post("/v1/batches", json=body)
        assert_problem(refused, 429, "rate_limited")
        assert 10 <= int(refused.headers["retry-after"]) <= 20
        assert len(client.get("/v1/jobs").json()["jobs"]) == 9
    gateway.store.close()


def test_a_batch_is_its_owners_alone(redis_url: str) -> None:
    """Another key gets what an unknown batch gets; a key that may only read sends and cancels none."""
    gateway = Gateway(Settings(redis_url=redis_url, api_key=SecretStr(KEY)))
    stranger, token = owners.create_key("stranger", {owners.Scope.READ}, now=0.0)
    gateway.store.apikeys.add(stranger)
    other = {"authorization": f"Bearer {token}"}
    with gateway.client(headers={"authorization": f"Bearer {KEY}"}) as client:
        batch = send(client, 0.1)
        foreign = client.get(f"/v1/batches/{batch.id}", headers=other)
        unknown = client.get(f"/v1/batches/batch_{'0' * 32}", headers=other)
        assert_problem(foreign, 404, "not_found", "id")
        assert foreign.json() == unknown.json()
        assert_problem(client.delete(f"/v1/batches/{batch.id}", headers=other), 403, "forbidden")
        assert_problem(client.post("/v1/batches", json={}, headers=other), 403, "forbidden")
        assert_problem(client.get("/v1/batches/0123"), 422, "invalid_spec", "batch_id")
    gateway.store.close()


def test_the_curl_example_runs(pool: RunningPool) -> None:
    """What docs/pool/index.md says, with only the address changed: two jobs of one snapshot."""
    (shown,) = re.findall(
        r"```sh\n(curl -F batch=.*?)```", (ROOT / "docs" / "pool" / "index.md").read_text(), re.DOTALL
    )
    command = shown.replace("http://127.0.0.1:8000", pool.url)
    done = subprocess.run(command, shell=True, check=True, capture_output=True, cwd=ROOT)
    batch = BatchStatus.model_validate_json(done.stdout)
    with SolverClient(pool.url) as client:
        assert client.cancel_batch(batch.id).id == batch.id
        assert len(client.batch(batch.id, wait=30).groups[0].jobs) == 2


def test_a_pool_solves_a_batch(pool: RunningPool) -> None:
    """Through the client and real workers: wider boxes are never worse, and the best one's weights can be fetched."""
    with SolverClient(pool.url) as client:
        wanted = [{"objective": "zero_one", "radius": radius, "limits": {"time_s": 5}} for radius in (0.05, 0.3)]
        sent_off = client.submit_batch(
            client.upload(small_snapshot(7)), [JobSpec.model_validate(one) for one in wanted]
        )
        found = client.batch(sent_off.id, wait=60)
        best = found.groups[0].jobs[0]
        assert found.ended
        assert [job.state.value for job in found.jobs] == ["succeeded"] * 2
        assert best.objective is not None
        assert client.result(best.id).result.objective.final == best.objective.final
        assert client.cancel_batch(sent_off.id).ended
