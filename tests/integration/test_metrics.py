"""/metrics on a real Redis: what was counted, whichever gateway is asked."""

from functools import partial

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from solver_service.gateway.app import create_app
from solver_service.gateway.services import Services
from solver_service.rules import jobs
from tests.integration.test_gateway import LOCAL, Gateway, finish, post, upload


def read(client: TestClient) -> dict[str, float]:
    """Every sample of the page, by its name and its label values in the order of their names."""
    page = client.get("/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        " ".join([sample.name, *(sample.labels[name] for name in sorted(sample.labels))]): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def test_an_empty_pool_has_metrics(gateway: Gateway) -> None:
    """Before anything happened the page is there, with zeros."""
    with gateway.client() as client:
        found = read(client)
    assert found["gdsolver_queued normal"] == 0
    assert found["gdsolver_jobs_finished_total failed"] == 0
    assert found["gdsolver_workers"] == 0


def test_what_happened_is_counted_once_by_any_gateway(gateway: Gateway) -> None:
    """Queue, attempts, ends, seconds, gain and verdicts are on the page of a gateway that saw none of it."""
    store = gateway.store
    with gateway.client() as client:
        done = str(post(client, {"snapshot": upload(client)})["id"])
        finish(gateway, done)
        for _ in range(2):
            client.post(f"/v1/jobs/{done}/feedback", json={"accepted": True, "staleness_steps": 50})
        post(client, {"snapshot": upload(client), "priority": "high"})
        running = str(post(client, {"snapshot": upload(client), "priority": "low"})["id"])
        store.jobs.update(running, partial(jobs.claim, worker="w", now=store.jobs.now()))
        store.workers.beat("w", host="h", pid=1, slots=2)
    other = create_app(Services(store, gateway.app.state.services.settings))
    with TestClient(other, base_url=LOCAL) as client:
        found = read(client)
    assert (found["gdsolver_queued high"], found["gdsolver_queued low"]) == (1, 0)
    assert found["gdsolver_oldest_queued_seconds high"] >= 0
    assert (found["gdsolver_running"], found["gdsolver_workers"], found["gdsolver_slots"]) == (1, 1, 2)
    assert found["gdsolver_attempts_total"] == 2
    assert found["gdsolver_workers_lost_total"] == 0
    assert found["gdsolver_jobs_finished_total succeeded"] == 1
    assert found["gdsolver_solve_seconds_count scip"] == 1
    assert found["gdsolver_improvement_bucket 0.5 ramp"] == 1
    assert found["gdsolver_improvement_bucket 0.2 ramp"] == 0
    assert found["gdsolver_objective_gained_total ramp"] == 1
    assert found["gdsolver_feedback_total accepted"] == 1
    assert found["gdsolver_staleness_steps_count"] == 1
    assert found["gdsolver_stored_bytes"] > 0
