"""The REST interface on a real Redis, without workers: what is accepted, what is refused and how."""

import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.contracts import JobError
from shared.snapshot import snapshot_id
from solver_service import weights
from solver_service.gateway import intake
from solver_service.gateway.app import create_app
from solver_service.gateway.routes import jobs as routes_of_jobs
from solver_service.gateway.services import Services
from solver_service.milp.core.moved import Moved
from solver_service.queue import MODEL_TASK
from solver_service.rules import jobs
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.worker.models import write_model
from tests.conftest import sent, small_snapshot, wait_for
from tests.unit.service.test_jobs import RESULT

JSON = "application/json"
OCTETS = {"content-type": "application/octet-stream"}
LOCAL = "http://127.0.0.1"
SPEC = {"objective": "ramp", "radius": 0.1}


class Gateway:
    """A gateway under test, and what is behind it."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store.open(settings)
        self.store.redis.flushall()
        self.app = create_app(Services(self.store, settings))

    def client(self, **options: object) -> TestClient:
        made = TestClient(self.app, base_url=LOCAL, raise_server_exceptions=False, **options)  # type: ignore[arg-type]
        made.event_hooks = {"response": [self._is_documented]}
        return made

    def _is_documented(self, response: Any) -> None:
        """Whatever a test asks for: the OpenAPI document knows the status of the answer."""
        for path, methods in self.app.openapi()["paths"].items():
            described = methods.get(response.request.method.lower())
            if described and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), response.request.url.path):
                said = set(described["responses"])
                assert str(response.status_code) in said, (response.request.method, path, response.status_code)


@pytest.fixture
def gateway(redis_url: str) -> Iterator[Gateway]:
    made = Gateway(Settings(redis_url=redis_url, max_body_bytes=100_000, max_json_bytes=50_000))
    yield made
    made.store.close()


def upload(client: TestClient, seed: int = 0) -> str:
    response = client.post("/v1/snapshots", content=small_snapshot(seed).to_bytes(), headers=OCTETS)
    return str(response.json()["id"])


def post(client: TestClient, spec: dict[str, object], **headers: str) -> dict[str, object]:
    response = client.post("/v1/jobs", json={**SPEC, **spec}, headers=headers)
    assert response.status_code == 202, response.text
    return dict(response.json())


def finish(gateway: Gateway, job_id: str) -> None:
    store = gateway.store
    store.jobs.update(job_id, partial(jobs.claim, worker="w", now=store.jobs.now()))
    data = weights.encode(Moved(small_snapshot().weight, None), RESULT)
    store.jobs.update(job_id, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()), result=data)


def assert_problem(response: object, status: int, code: str, field: str | None = None) -> None:
    assert response.status_code == status, response.text  # type: ignore[attr-defined]
    assert response.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    body = response.json()  # type: ignore[attr-defined]
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    if field is not None:
        assert body["field"] == field


def test_a_snapshot_is_stored_once(client: TestClient) -> None:
    """The first upload gives 201, the second 200, both with the content's hash and shapes."""
    data = small_snapshot().to_bytes()
    first = client.post("/v1/snapshots", content=data, headers=OCTETS)
    again = client.put(f"/v1/snapshots/{snapshot_id(data)}", content=data, headers=OCTETS)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["shapes"]["inputs"] == [30, 3]
    assert client.head(f"/v1/snapshots/{snapshot_id(data)}").status_code == 200
    assert client.head(f"/v1/snapshots/{'0' * 64}").status_code == 404


def test_a_job_that_was_set_aside_is_gone_for_every_route(gateway: Gateway, client: TestClient) -> None:
    """Each says so with a 410, which the OpenAPI document knows of."""
    url = f"/v1/jobs/{post(client, {'snapshot': upload(client)})['id']}"
    gateway.store.redis.set(keys.job(url.rpartition("/")[2]), "{}")
    for answer in (
        client.get(url),
        client.get(f"{url}/result"),
        client.get(f"{url}/events"),
        client.get(f"{url}/log"),
        client.get(f"{url}/problem"),
        client.post(f"{url}/feedback", json={"accepted": True}),
        client.delete(url),
    ):
        assert_problem(answer, 410, "gone", "id")


def test_a_list_names_a_query_that_it_does_not_know(client: TestClient) -> None:
    """As bodies do: a misspelt filter would show everything."""
    answer = client.get("/v1/jobs", params={"stat": "queued"})
    assert_problem(answer, 422, "invalid_spec", "stat")
    assert "state" in answer.json()["detail"]


def test_put_checks_the_hash(client: TestClient) -> None:
    """Bytes that were changed on their way are refused."""
    response = client.put(f"/v1/snapshots/{'0' * 64}", content=small_snapshot().to_bytes(), headers=OCTETS)
    assert_problem(response, 422, "hash_mismatch", "sha256")


def test_a_job_is_queued_and_can_be_asked_after(gateway: Gateway, client: TestClient) -> None:
    """A submission gives 202 with a location, a message is sent, and the record says `queued`."""
    response = client.post("/v1/jobs", json={**SPEC, "snapshot": upload(client), "run": "r1", "tags": {"a": "b"}})
    assert response.status_code == 202
    job = client.get(response.headers["location"]).json()
    assert (job["state"], job["run"], job["tags"]) == ("queued", "r1", {"a": "b"})
    assert sent(gateway.store.redis) == [job["id"]]
    assert client.get("/v1/jobs", params={"run": "r1"}).json()["jobs"][0]["id"] == job["id"]
    assert client.get("/v1/stats").json()["queued"] == 1


def test_solve_takes_spec_as_field_or_file(client: TestClient) -> None:
    """One multipart call uploads and submits, with the spec as a form field or as a file."""
    snapshot = ("stall.safetensors", small_snapshot().to_bytes())
    as_field = client.post("/v1/solve", data={"spec": json.dumps(SPEC)}, files={"snapshot": snapshot})
    as_file = client.post("/v1/solve", files={"snapshot": snapshot, "spec": ("spec.json", json.dumps(SPEC))})
    assert (as_field.status_code, as_file.status_code) == (202, 202), as_field.text
    assert as_field.json()["snapshot"] == as_file.json()["snapshot"]


def test_a_small_snapshot_travels_inline(client: TestClient) -> None:
    """Nested lists in the spec give the same snapshot id as the file."""
    snapshot = small_snapshot()
    lists = {name: array.tolist() for name, array in snapshot.tensors().items()}
    job = post(client, {"snapshot": {"task": "classification", "tensors": lists}})
    assert job["snapshot"] == snapshot_id(snapshot.to_bytes())


def test_idempotency_keys(client: TestClient) -> None:
    """Same key and body: the same job. Same key, other body: 422."""
    spec: dict[str, object] = {"snapshot": upload(client)}
    first = post(client, spec, **{"Idempotency-Key": "abc"})
    assert post(client, spec, **{"Idempotency-Key": "abc"})["id"] == first["id"]
    other = client.post("/v1/jobs", json={**SPEC, **spec, "radius": 0.2}, headers={"Idempotency-Key": "abc"})
    assert_problem(other, 422, "idempotency_mismatch", "Idempotency-Key")


def test_supersede_cancels_older_jobs_of_the_run(client: TestClient) -> None:
    """A newer snapshot of the same run makes the older unfinished jobs pointless."""
    snapshot = upload(client)
    old = post(client, {"snapshot": snapshot, "run": "r"})
    other = post(client, {"snapshot": snapshot, "run": "another"})
    post(client, {"snapshot": snapshot, "run": "r", "supersede": True})
    assert client.get(f"/v1/jobs/{old['id']}").json()["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{other['id']}").json()["state"] == "queued"


def test_a_repeated_submission_supersedes_what_the_first_one_left(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis went in the middle of the first one: its repetition finds the job, and does the rest."""
    spec = {"snapshot": upload(client), "run": "r"}
    old = post(client, spec)
    with monkeypatch.context() as halfway:
        halfway.setattr(intake, "_supersede_older", lambda *_: None)
        first = post(client, {**spec, "supersede": True}, **{"Idempotency-Key": "k"})
    assert client.get(f"/v1/jobs/{old['id']}").json()["state"] == "queued"
    assert post(client, {**spec, "supersede": True}, **{"Idempotency-Key": "k"})["id"] == first["id"]
    assert client.get(f"/v1/jobs/{old['id']}").json()["state"] == "cancelled"


def test_results(gateway: Gateway, client: TestClient) -> None:
    """Unfinished: 409. Finished: the weights. Cancelled before a start: 404. Expired data: 410."""
    job = post(client, {"snapshot": upload(client)})
    url = f"/v1/jobs/{job['id']}/result"
    assert_problem(client.get(url), 409, "not_finished")
    finish(gateway, str(job["id"]))
    found = weights.decode(client.get(url).content)
    assert found.weight.shape == (3, 3)
    assert found.bias is None
    gateway.store.redis.delete(f"gds:result:{job['id']}")
    assert_problem(client.get(url), 410, "gone")
    cancelled = post(client, {"snapshot": upload(client), "radius": 0.3})
    assert client.delete(f"/v1/jobs/{cancelled['id']}").json()["state"] == "cancelled"
    assert_problem(client.get(f"/v1/jobs/{cancelled['id']}/result"), 404, "no_result")


def test_cancel_is_202_while_running_and_200_after(gateway: Gateway, client: TestClient) -> None:
    """A running job is asked to stop; a finished one stays as it is."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    store = gateway.store
    store.jobs.update(job, partial(jobs.claim, worker="w", now=store.jobs.now()))
    assert client.delete(f"/v1/jobs/{job}").status_code == 202
    store.jobs.update(job, partial(jobs.finish, result=RESULT, attempt=1, now=store.jobs.now()), result=b"x")
    response = client.delete(f"/v1/jobs/{job}")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")


def test_feedback_is_kept(gateway: Gateway, client: TestClient) -> None:
    """The trainer's verdict becomes part of an ended job's record."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    url = f"/v1/jobs/{job}/feedback"
    assert_problem(client.post(url, json={"accepted": True}), 409, "not_finished")
    finish(gateway, job)
    assert client.post(url, json={"accepted": True, "before": 1.0, "after": 0.5}).status_code == 200
    assert client.get(f"/v1/jobs/{job}").json()["feedback"]["after"] == 0.5


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"objective": "accuracy"}, "objective"),
        ({"objective": "mae"}, "objective"),
        ({"radius": -1}, "radius"),
        ({"radius": 1e39}, "radius"),
        ({"bias_radius": 1e308}, "bias_radius"),
        ({"radius": None}, "radius"),
        ({"limits": {"time_s": 601}}, "limits.time_s"),
        ({"limits": {"time_s": 10, "patience": 1}}, "limits.patience"),
        ({"radios": 1}, "radios"),
        ({"supersede": True}, "supersede"),
        ({"snapshot": None}, "snapshot"),
        ({"tail_radius": 0.5}, "tail_radius"),
        ({"constraints": [{"type": "nonnegative", "value": 1}]}, "constraints.0.value"),
        ({"constraints": [{"type": "grid", "value": 0.5, "indices": [99]}]}, "constraints.0.indices"),
        ({"constraints": [{"type": "fair", "value": 1}]}, "constraints.0.type"),
        ({"solver": {"formulation": "reference"}}, "solver.formulation"),
        ({"solver": {"params": {"limits/time": 5}}}, "solver.params.limits/time"),
        ({"solver": {"params": {"visual/vbcfilename": 5}}}, "solver.params.visual/vbcfilename"),
        ({"tags": {"a": "\ud800"}}, "tags.a"),
        ({"tags": {"": "x"}}, "tags"),
        ({"tags": {"x" * 201: "x"}}, f"tags.{'x' * 80}"),
        ({"tags": {"a": ""}}, "tags.a"),
        ({"tags": {"a": 1}}, "tags.a"),
        ({"tags": [1]}, "tags"),
        ({"tail_radius": -1}, "tail_radius"),
        ({"tail_radius": "x"}, "tail_radius"),
        ({"tail_radius": {}}, "tail_radius"),
        ({"tail_radius": [0.1, -1]}, "tail_radius.1"),
        ({"tail_radius": [0.1, "x"]}, "tail_radius.1"),
        ({"tail_radius": [0.1] * 33}, "tail_radius"),
        ({"solver": {"params": {"heuristics/rins/freq": "x"}}}, "solver.params.heuristics/rins/freq"),
        ({"solver": {"params": {"heuristics/rins/freq": None}}}, "solver.params.heuristics/rins/freq"),
        ({"solver": {"params": {"heuristics/rins/freq": float("inf")}}}, "solver.params.heuristics/rins/freq"),
        ({"solver": {"params": {"bool": []}}}, "solver.params.bool"),
        ({"solver": []}, "solver"),
        ({"snapshot": "0"}, "snapshot"),
        ({"snapshot": 3}, "snapshot"),
        ({"snapshot": []}, "snapshot"),
        ({"snapshot": {}}, "snapshot.task"),
        ({"snapshot": {"task": "classification"}}, "snapshot.tensors"),
        ({"snapshot": {"task": "x", "tensors": {}}}, "snapshot.task"),
        ({"snapshot": {"task": "binary", "tensors": []}}, "snapshot.tensors"),
        ({"snapshot": {"task": "binary", "tensors": {}, "tail": [1]}}, "snapshot.tail.0"),
        ({"snapshot": {"task": "binary", "tensors": {}, "more": 1}}, "snapshot.more"),
        ({"constraints": [{"type": "levels", "levels": [0, "x"]}]}, "constraints.0.levels.1"),
        ({"constraints": [3]}, "constraints.0"),
        ({"limits": {"nodes": "x"}}, "limits.nodes"),
        ({"run": 3}, "run"),
        ({"radius": True}, "radius"),
        ({"radius": "0.5"}, "radius"),
        ({"limits": {"time_s": "5"}}, "limits.time_s"),
        ({"limits": {"memory_mb": 2000.5}}, "limits.memory_mb"),
        ({"solver": {"seed": False}}, "solver.seed"),
    ],
)
def test_a_wrong_spec_names_the_field(client: TestClient, spec: dict[str, object], field: str) -> None:
    """Whatever is wrong in a spec gives 422 and names the field."""
    body = json.dumps({**SPEC, "snapshot": upload(client), **spec})
    response = client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert response.json()["field"] == field


@pytest.mark.parametrize(("before", "note"), [(b"\xef\xbb\xbf", ""), (b"", "\ud800")], ids=["a mark", "half a pair"])
def test_what_only_the_standard_library_reads_has_the_same_types(client: TestClient, before: bytes, note: str) -> None:
    """Behind a byte order mark, or beside half a surrogate pair, text is no number, and all else is as it was."""
    inline = {"task": "regression", "tensors": {"inputs": [[1.0]], "targets": [[1.0]], "weight": [[0.5]], "bias": [0]}}
    spec = {"snapshot": {**inline, "note": {"a": note}}, "objective": "mse", "radius": 0.5}
    sent, headers = [], {"content-type": "application/json"}
    for wrong in ({"radius": "0.5"}, {"step": True}, {}):
        sent.append(client.post("/v1/jobs", content=before + json.dumps({**spec, **wrong}).encode(), headers=headers))
    assert_problem(sent[0], 422, "invalid_spec", "radius")
    assert_problem(sent[1], 422, "invalid_spec", "step")
    assert sent[2].status_code == 202, sent[2].text


def test_a_snapshot_over_its_own_memory_limit_is_refused_with_the_estimate(gateway: Gateway) -> None:
    """What could not even be loaded gives 422 and says how much it takes; a model too large is no reason."""
    roomy = Services(gateway.store, Settings())
    with TestClient(create_app(roomy), base_url=LOCAL) as client:
        data = small_snapshot(n=40_000, d=100).to_bytes()
        large = client.post("/v1/snapshots", content=data, headers=OCTETS).json()["id"]
        response = client.post("/v1/jobs", json={**SPEC, "snapshot": large, "limits": {"memory_mb": 50}})
        assert_problem(response, 422, "invalid_spec", "limits.memory_mb")
        assert "65 MB" in response.json()["detail"]
        post(client, {"snapshot": large, "limits": {"memory_mb": 100}})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"radius": NaN}', b"\xff", b"[" * 20_000, b"9" * 9999])
def test_a_body_that_is_no_spec_is_refused(client: TestClient, body: bytes) -> None:
    """Broken JSON and JSON of another kind give 422."""
    assert client.post("/v1/jobs", content=body, headers={"content-type": "application/json"}).status_code == 422


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 20_000, b"9" * 9999, b"[]", b"null", b'{"accepted": 1e999}']
)
def test_a_body_that_is_no_verdict_is_refused_as_one_that_is_no_spec(client: TestClient, body: bytes) -> None:
    """With the same status, and a field that says where."""
    headers = {"content-type": JSON}
    answers = [
        client.post(path, content=body, headers=headers) for path in (f"/v1/jobs/{'0' * 32}/feedback", "/v1/jobs")
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert all(answer.json()["field"] for answer in answers), [answer.text for answer in answers]


def test_a_wrong_verdict_names_the_field(client: TestClient) -> None:
    """As specs do."""
    url = f"/v1/jobs/{'0' * 32}/feedback"
    assert_problem(client.post(url, json={"accepted": True, "before": "x"}), 422, "invalid_spec", "before")
    assert_problem(client.post(url, json={"accepted": True, "more": 1}), 422, "invalid_spec", "more")
    assert_problem(client.post(url, json={"accepted": "yes"}), 422, "invalid_spec", "accepted")
    assert_problem(client.post(url, json={"accepted": 1}), 422, "invalid_spec", "accepted")
    assert_problem(client.post(url, json={}), 422, "invalid_spec", "accepted")
    assert_problem(client.post(url, content=b"accepted"), 415, "unsupported_media_type", "Content-Type")


def test_other_refusals(client: TestClient) -> None:
    """Unknown jobs, wrong media types, encodings, methods and lengths each have their status and code."""
    data = small_snapshot().to_bytes()
    assert_problem(client.get(f"/v1/jobs/{'0' * 32}"), 404, "not_found")
    assert_problem(client.get("/v1/nowhere"), 404, "not_found")
    assert_problem(client.put("/v1/jobs"), 405, "method_not_allowed")
    assert "use GET, POST" in client.put("/v1/jobs").json()["detail"]
    assert_problem(client.get("/v1/jobs", params={"limit": 1000}), 422, "invalid_spec", "limit")
    assert_problem(client.get(f"/v1/jobs/{'0' * 32}", params={"wait": 61}), 422, "invalid_spec", "wait")
    assert_problem(client.post("/v1/jobs", content=b"x"), 415, "unsupported_media_type", "Content-Type")
    assert_problem(client.post("/v1/snapshots", json={}), 415, "unsupported_media_type", "Content-Type")
    gzip = {**OCTETS, "content-encoding": "gzip"}
    assert_problem(client.post("/v1/snapshots", content=data, headers=gzip), 415, "unsupported_media_type")
    assert_problem(client.post("/v1/snapshots", content=b"nonsense", headers=OCTETS), 422, "invalid_snapshot")
    assert_problem(client.post("/v1/snapshots", content=bytes(100_001), headers=OCTETS), 413, "too_large")
    streamed = client.post("/v1/snapshots", content=(bytes(10_000) for _ in range(20)), headers=OCTETS)
    assert_problem(streamed, 413, "too_large")
    large = client.post("/v1/jobs", content=bytes(60_000), headers={"content-type": "application/json"})
    assert_problem(large, 413, "too_large", "Content-Length")
    json_stream = (b" " * 10_000 for _ in range(6))
    large = client.post(f"/v1/jobs/{'0' * 32}/feedback", content=json_stream, headers={"content-type": JSON})
    assert_problem(large, 413, "too_large")
    assert_problem(client.post(f"/v1/jobs/{'0' * 32}/feedback", content=bytes(50_001)), 413, "too_large")
    files = {"spec": ("spec.json", bytes(50_001)), "snapshot": ("s", data)}
    assert_problem(client.post("/v1/solve", files=files), 413, "too_large", "spec")
    missing = client.post("/v1/jobs", json={**SPEC, "snapshot": "0" * 64})
    assert_problem(missing, 404, "not_found", "snapshot")
    assert_problem(client.post("/v1/solve", files={"snapshot": ("s", data)}), 422, "invalid_spec", "spec")
    assert_problem(client.post("/v1/solve", data={"spec": "{}"}), 415, "unsupported_media_type")


def test_a_keyless_gateway_serves_this_machine_alone(client: TestClient) -> None:
    """Without a key a foreign Host, a foreign Origin and cross-site requests are refused; this machine's pass."""
    assert_problem(client.get("/healthz", headers={"host": "evil.example"}), 403, "forbidden", "Host")
    assert_problem(client.get("/v1/jobs", headers={"origin": "http://evil.example"}), 403, "forbidden", "Origin")
    assert_problem(client.get("/v1/jobs", headers={"sec-fetch-site": "cross-site"}), 403, "forbidden", "Origin")
    assert client.get("/v1/jobs", headers={"host": "localhost:8000"}).status_code == 200
    assert client.get("/v1/jobs", headers={"origin": LOCAL, "sec-fetch-site": "same-origin"}).status_code == 200


def test_a_key_is_needed_where_one_is_set(redis_url: str) -> None:
    """With a key every /v1 call needs it; health does not; hosts are free."""
    keyed = Gateway(Settings(redis_url=redis_url, api_key="secret-key"))  # type: ignore[arg-type]
    with keyed.client() as client:
        assert_problem(client.get("/v1/jobs"), 401, "unauthorized", "Authorization")
        assert_problem(client.get("/v1/jobs", headers={"authorization": "Bearer no"}), 401, "unauthorized")
        assert_problem(client.get("/v1/jobs", headers={"authorization": b"Bearer \xe9"}), 401, "unauthorized")
        with_key = {"authorization": "Bearer secret-key", "host": "pool.example"}
        assert client.get("/v1/jobs", headers=with_key).status_code == 200
        assert client.get("/healthz").status_code == 200
    keyed.store.close()


def test_readiness_needs_a_worker(gateway: Gateway, client: TestClient) -> None:
    """`/readyz` is green only when a worker has a fresh heartbeat; `/healthz` is about the process alone."""
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    gateway.store.workers.beat("w", host="h", pid=1, slots=1)
    wait_for(lambda: client.get("/readyz").status_code == 200)
    assert client.get("/v1/workers").json()["workers"][0]["name"] == "w"


def test_an_outage_of_redis_is_a_503() -> None:
    """While Redis is away every call that needs it says so, with Retry-After."""
    settings = Settings(redis_url="unix:///nowhere/redis.sock")
    store = Store.open(settings)
    app = create_app(Services(store, settings))
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        for response in (client.get("/v1/jobs"), client.get("/readyz"), client.get(f"/v1/jobs/{'0' * 32}")):
            assert_problem(response, 503, "store_unavailable")
            assert response.headers["retry-after"]


def test_the_openapi_document_describes_the_spec(client: TestClient) -> None:
    """The document names the job spec, though routes parse it themselves to bound it first."""
    document = client.get("/openapi.json").json()
    assert {"JobSpec", "JobStatus", "Problem", "Limits"} <= document["components"]["schemas"].keys()
    assert "/v1/solve" in document["paths"]


def test_every_route_documents_its_errors(client: TestClient) -> None:
    """Errors are problem+json in the document, too, and every schema that it names is there."""
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    for route, methods in document["paths"].items():
        for name, method in methods.items():
            if name == "head":
                continue  # an answer to HEAD has no body
            refusals = [status for status in method["responses"] if status[0] == "4"]
            assert "422" in refusals, (route, name)
            assert all("application/problem+json" in method["responses"][status]["content"] for status in refusals)
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert named <= document["components"]["schemas"].keys()
    assert document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["example"]


def test_a_model_is_written_on_request(gateway: Gateway, client: TestClient) -> None:
    """202 and one message until a worker has written it, then the text; a reason where there is none."""
    first, second, large = (str(post(client, {"snapshot": upload(client, seed)})["id"]) for seed in range(3))
    url = f"/v1/jobs/{first}/problem"
    waiting = client.get(url)
    assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "1")
    assert client.get(url).status_code == 202
    assert sent(gateway.store.redis, MODEL_TASK) == [first]
    write_model(gateway.store, first)
    written = client.get(url)
    assert written.status_code == 200
    assert written.text.rstrip().endswith("ENDATA")
    for job, code, status in ((second, "not_supported", 409), (large, "too_large", 413)):
        record = gateway.store.jobs.get(job)
        assert record is not None
        gateway.store.models.refuse(record, JobError(code=code, detail="so it is"))
        assert_problem(client.get(f"/v1/jobs/{job}/problem"), status, code)


def test_a_model_needs_its_job_and_snapshot(gateway: Gateway, client: TestClient) -> None:
    """Unknown job: 404. Expired snapshot: 410. Asked for too often in vain: a refusal instead of another crash."""
    assert_problem(client.get(f"/v1/jobs/{'0' * 32}/problem"), 404, "not_found")
    job = post(client, {"snapshot": upload(client)})
    for asked in range(5):
        gateway.store.redis.delete(f"{keys.model_wanted(str(job['id']))}:now")
        assert client.get(f"/v1/jobs/{job['id']}/problem").status_code == (202 if asked <= 3 else 409)
    assert len(sent(gateway.store.redis, MODEL_TASK)) == 3
    other = post(client, {"snapshot": upload(client, 1)})
    gateway.store.redis.delete(keys.snapshot("local", str(other["snapshot"])))
    assert_problem(client.get(f"/v1/jobs/{other['id']}/problem"), 410, "gone")


def test_a_submission_may_wait_for_its_end(gateway: Gateway, client: TestClient) -> None:
    """`Prefer: wait` answers with the ended record; without an end, with the job as it is when the time is over."""
    spec = {**SPEC, "snapshot": upload(client)}
    answer = client.post("/v1/jobs", json=spec, headers={"Prefer": "respond-async, wait=1"})
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert answer.json()["state"] == "queued"
    ending = threading.Thread(target=end_second, args=(gateway.store,))
    ending.start()
    began = time.monotonic()
    answer = client.post("/v1/jobs", json=spec, headers={"Prefer": "wait=30"})
    assert answer.json()["state"] == "cancelled"
    assert time.monotonic() - began < 10
    ending.join()
    for prefer in ("wait=", "wait=soon", "return=minimal"):
        assert "Preference-Applied" not in client.post("/v1/jobs", json=spec, headers={"Prefer": prefer}).headers


def test_a_job_that_ends_before_its_submission_is_through_is_not_waited_for(
    gateway: Gateway, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever submits it waits from before its first moment; who submits it again looks at it."""
    spec = {**SPEC, "snapshot": upload(client)}
    submit, seen = intake.submit, []

    def submitted_and_solved(*arguments: object, **options: object) -> jobs.Job:
        job = submit(*arguments, **options)  # type: ignore[arg-type]
        if job.id not in seen:
            finish(gateway, job.id)
            seen.append(job.id)
        time.sleep(0.2)  # the word of its end has come and gone
        return job

    monkeypatch.setattr(routes_of_jobs, "submit", submitted_and_solved)
    for _ in range(2):
        headers = {"Prefer": "wait=60", "Idempotency-Key": "once"}
        answer = client.post("/v1/jobs", json=spec, headers=headers)
        assert answer.json()["state"] == "succeeded"
    assert len(seen) == 1


def end_second(store: Store) -> None:
    wait_for(lambda: len(sent(store.redis)) == 2)
    store.jobs.update(sent(store.redis)[1], partial(jobs.cancel, now=store.jobs.now()))
