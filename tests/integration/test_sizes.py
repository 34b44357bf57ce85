"""Sizes of what submissions name and records keep: bounded before anything is queued, with words that say how."""

import json
import re
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from shared.contracts import JobError, JobList, JobSpec
from shared.errors import ErrorCode, SpecError
from solver_service.gateway.routes.submission import MOST_ERRORS, InvalidSpecError, read_contract
from solver_service.milp import problem_file
from solver_service.queue import MODEL_TASK, QUEUES
from solver_service.rules.owners import Scope, create_key
from solver_service.settings import Settings
from solver_service.worker.models import write_model
from tests.conftest import ROOT, sent, small_snapshot
from tests.integration.test_gateway import SPEC, Gateway, assert_problem, post, upload


@pytest.mark.parametrize(("constraint", "field"), [
    ({"type": "nonnegative", "classes": [1] * 1000}, "constraints.0.classes"),
    ({"type": "nonnegative", "indices": [0, 2, 0]}, "constraints.0.indices"),
    ({"type": "recall_floor", "value": 0.1, "classes": [2, 2]}, "constraints.0.classes"),
])  # fmt: skip
def test_a_list_names_each_thing_once(client: TestClient, constraint: dict[str, object], field: str) -> None:
    """A repeated number is a 422 that names the list, so that no list is longer than what the snapshot has."""
    spec = {**SPEC, "objective": "hinge", "snapshot": upload(client), "constraints": [constraint]}
    answer = client.post("/v1/jobs", json=spec)
    assert_problem(answer, 422, "invalid_spec", field)


def test_millions_of_numbers_are_refused_and_nothing_is_kept(gateway: Gateway, client: TestClient) -> None:
    """A spec that would make a huge record is a 413 that says how large a record may be."""
    constraint = {"type": "nonnegative", "classes": [1] * 300_000}
    spec = {**SPEC, "snapshot": upload(client), "constraints": [constraint]}
    kept = gateway.store.quota.used("")
    answer = client.post("/v1/jobs", json=spec)
    assert_problem(answer, 413, "too_large", "spec")
    assert "131,072" in answer.json()["detail"]
    assert gateway.store.quota.used("") == kept
    assert sent(gateway.store.redis) == []


def test_a_small_body_is_expected_where_little_is_said(client: TestClient) -> None:
    """A verdict or a path without a body of its own takes 64 KiB at most."""
    job = post(client, {"snapshot": upload(client)})["id"]
    answer = client.post(
        f"/v1/jobs/{job}/feedback", content=b" " * 70_000, headers={"content-type": "application/json"}
    )
    assert_problem(answer, 413, "too_large")


def test_a_page_of_large_records_ends_early(client: TestClient) -> None:
    """A list never ships more than about a megabyte; its cursor leads on to the rest."""
    snapshot = upload(client)
    tags = {f"{n}": "x" * 200 for n in range(49)}
    posted = [str(post(client, {"snapshot": snapshot, "tags": {**tags, "n": str(n)}})["id"]) for n in range(120)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    pages = 0
    while True:
        answer = client.get("/v1/jobs", params={"limit": "200", **cursor})
        assert len(answer.content) < 1_300_000
        found += [job["id"] for job in answer.json()["jobs"]]
        pages += 1
        if answer.json()["cursor"] is None:
            break
        cursor = {"cursor": answer.json()["cursor"]}
    assert found == posted[::-1]
    assert pages > 1


def test_a_page_is_written_record_by_record(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call writes more than one of them, during which nobody is served; the text is that of the contract."""
    snapshot = upload(client)
    for number in range(10):
        post(client, {"snapshot": snapshot, "tags": {"n": str(number), "ü": '"'}})
    told: list[int] = []
    dump = BaseModel.model_dump_json

    def counted(model: BaseModel, **options: Any) -> str:
        text = dump(model, **options)
        told.append(len(text))
        return text

    monkeypatch.setattr(BaseModel, "model_dump_json", counted)
    page = client.get("/v1/jobs", params={"limit": 9})
    largest = max(len(dump(job)) for job in JobList.model_validate_json(page.content).jobs)
    assert page.headers["content-type"] == "application/json"
    assert page.json()["cursor"] is not None
    assert len(told) >= 9
    assert max(told) <= largest
    monkeypatch.undo()
    for query in ({"limit": 9}, {}, {"state": "failed"}):
        page = client.get("/v1/jobs", params=query)
        assert page.text == JobList.model_validate_json(page.content).model_dump_json()


@pytest.mark.parametrize("wrong", [
    {"constraints": [{"type": "nonnegative", kind: ["x"] * 100_000} for kind in ("classes", "indices", "groups")]},
    {"constraints": [{"type": "levels", "levels": ["x"] * 100_000}]},
    {"snapshot": {"task": "regression", "tensors": {}, "tail": [1] * 100_000}},
    {"tags": {f"{number}": 1 for number in range(50_000)}},
    {f"{number}": 1 for number in range(50_000)},
])  # fmt: skip
def test_of_what_is_wrong_a_thousand_times_little_is_listed(wrong: dict[str, object]) -> None:
    """Listing all of it would keep everybody waiting; what is told names the field, or how many there are."""
    text = json.dumps({**SPEC, "tensors": 1, **wrong}).encode()
    with pytest.raises(InvalidSpecError) as caught:
        read_contract(JobSpec, text, field="spec")
    assert 0 < len(caught.value.found) <= MOST_ERRORS
    answer = json.loads(bytes(caught.value.response().body))
    assert answer["status"] == 422
    assert answer["errors"]


def test_models_are_limited_counted_and_not_urgent(redis_url: str) -> None:
    """Asking for models counts as submitting, four are written at a time, and they count towards the key's bytes."""
    gateway = Gateway(Settings(redis_url=redis_url, max_submissions_per_minute=20))
    store = gateway.store
    key, token = create_key("alice", [Scope.SUBMIT], now=store.jobs.now())
    store.apikeys.add(key)
    with gateway.client(headers={"authorization": f"Bearer {token}"}) as alice:
        snapshot = upload(alice)
        made = [str(post(alice, {"snapshot": snapshot})["id"]) for _ in range(6)]
        answers = [alice.get(f"/v1/jobs/{job}/problem") for job in made]
        assert [answer.status_code for answer in answers] == [202] * 4 + [429] * 2
        assert_problem(answers[-1], 429, "rate_limited")
        assert len(sent(store.redis, MODEL_TASK)) == 4
        assert store.redis.llen(QUEUES[0]) == 0
        before = store.quota.used(key.owner)[0]
        write_model(store, made[0])
        written = alice.get(f"/v1/jobs/{made[0]}/problem")
        assert written.status_code == 200
        assert store.quota.used(key.owner)[0] == before + len(written.content)
        assert alice.get(f"/v1/jobs/{made[4]}/problem").status_code == 202
        statuses = [alice.get(f"/v1/jobs/{made[5]}/problem").status_code for _ in range(20)]
        assert statuses[-1] == 429
    store.close()


def test_a_model_that_does_not_fit_the_share_is_refused_as_such(gateway: Gateway, client: TestClient) -> None:
    """The refusal is a 429, as every other full share is."""
    job = str(post(client, {"snapshot": upload(client)})["id"])
    record = gateway.store.jobs.get(job)
    assert record is not None
    gateway.store.models.refuse(record, JobError(code=ErrorCode.STORAGE_FULL, detail="full"))
    assert_problem(client.get(f"/v1/jobs/{job}/problem"), 429, "storage_full")


def test_a_model_that_is_too_large_is_not_even_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is known from the inputs alone, before anything of the job is put into float64."""
    monkeypatch.setattr(problem_file, "problem_of", lambda *_: pytest.fail("the problem was built"))
    snapshot = small_snapshot(n=2000, d=400, classes=5)
    with pytest.raises(SpecError, match="coefficients") as refused:
        problem_file.mps(snapshot, JobSpec(objective="hinge", radius=0.1))
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_what_runs_in_containers_is_confined() -> None:
    """Redis, gateway and worker have a read-only root, no capabilities, no new privileges, a password and limits."""
    text = (ROOT / "docker-compose.yml").read_text()
    confined = text.partition("x-confined:")[2].partition("\n\n")[0]
    for line in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "pids_limit:"):
        assert line in confined
    for name in ("redis", "gateway", "worker"):
        part = re.split(r"\n  \w[\w-]*:\n", text.partition(f"\n  {name}:\n")[2])[0]
        assert "<<: *confined" in part
        assert "mem_limit:" in part
    assert "requirepass $$REDISCLI_AUTH" in text
    assert '--maxmemory "$$MAXMEMORY"' in text
