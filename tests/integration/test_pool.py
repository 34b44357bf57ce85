"""The embedded stack as users run it: solved over HTTP, kept through faults, and nothing left behind."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from shared.activations import IDENTITY, Activation
from shared.objectives import Objective
from shared.snapshot import Snapshot, TailLayer
from solver_service.cli import app
from tests.conftest import RunningPool, small_snapshot, start_pool, wait_for
from tests.processes import command_line, is_alive, living_children
from trainer.pool.client import SolverClient

SPEC = {"objective": "zero_one", "radius": 0.3, "limits": {"time_s": 5}}
OCTETS = {"content-type": "application/octet-stream"}


def submit(http: httpx.Client, snapshot: bytes, spec: dict[str, Any]) -> str:
    digest = http.post("/v1/snapshots", content=snapshot, headers=OCTETS).json()["id"]
    response = http.post("/v1/jobs", json={**spec, "snapshot": digest})
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def ended(http: httpx.Client, job: str) -> dict[str, Any]:
    for _ in range(4):
        record = http.get(f"/v1/jobs/{job}", params={"wait": 15}, timeout=30).json()
        if record["state"] not in ("queued", "running"):
            return dict(record)
    raise AssertionError(record)


def long_problem() -> bytes:
    """A problem that no solver finishes in a few seconds."""
    return small_snapshot(3, n=1500, d=5, classes=6).to_bytes()


@pytest.mark.parametrize("objective", ["zero_one", "ramp", "hinge"])
def test_a_job_is_solved_over_http(pool: RunningPool, objective: str) -> None:
    """Posted, solved, fetched: the weights lie in the box, improve, and recompute to the value that was reported."""
    snapshot = small_snapshot()
    with httpx.Client(base_url=pool.url) as http:
        job = submit(http, snapshot.to_bytes(), {**SPEC, "objective": objective})
        record = ended(http, job)
        assert record["state"] == "succeeded", record
        found = safetensors.numpy.load(http.get(f"/v1/jobs/{job}/result").content)
    reported = record["result"]["objective"]
    assert reported["final"] < reported["start"]
    assert np.abs(found["weight"] - snapshot.weight).max() <= 0.3 + 1e-6
    value = Objective(objective).value(snapshot, found["weight"], found["bias"])  # type: ignore[arg-type]
    assert value == reported["final"]
    assert record["worker"]


def test_progress_and_cancel_keep_the_incumbent(pool: RunningPool) -> None:
    """A running job reports its incumbent; cancelled, it ends soon and keeps it as the result."""
    with httpx.Client(base_url=pool.url) as http:
        job = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 120}})
        wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["progress"] is not None)
        began = time.monotonic()
        assert http.delete(f"/v1/jobs/{job}").status_code == 202
        record = ended(http, job)
        assert time.monotonic() - began < 10
        assert record["state"] == "cancelled"
        assert record["result"]["status"] == "interrupted"
        assert record["result"]["objective"]["final"] < record["result"]["objective"]["start"]
        assert http.get(f"/v1/jobs/{job}/result").status_code == 200


def hidden_snapshot() -> Snapshot:
    """A hidden layer of four units, one of them dead, with the layer behind it."""
    rng = np.random.default_rng(5)
    inputs = rng.uniform(-1, 1, (40, 3)).astype(np.float32)
    tail = TailLayer(rng.normal(size=(2, 4)).astype(np.float32), np.zeros(2, np.float32), IDENTITY)
    bias = np.array([0, 0, 0, -9], np.float32)
    return Snapshot(
        task="regression",
        inputs=inputs,
        targets=inputs[:, :2] ** 2,
        weight=rng.normal(size=(4, 3)).astype(np.float32),
        bias=bias,
        activation=Activation.parse("relu"),
        tail=(tail,),
    )


@pytest.mark.parametrize("tail_radius", [0.0, 0.5])
def test_a_hidden_layer_is_solved_over_http(pool: RunningPool, tail_radius: float) -> None:
    """The downloaded weights, with the tail's last layer if that was free, recompute to the value reported."""
    snapshot = hidden_snapshot()
    spec = {"objective": "mae", "radius": 0.5, "tail_radius": tail_radius, "limits": {"time_s": 2}}
    with httpx.Client(base_url=pool.url) as http:
        job = submit(http, snapshot.to_bytes(), spec)
        record = ended(http, job)
        assert record["state"] == "succeeded", record
        found = safetensors.numpy.load(http.get(f"/v1/jobs/{job}/result").content)
    last, tail = snapshot.tail[0], ["tail.0.bias", "tail.0.weight"]
    assert sorted(found) == ["bias", *(tail if tail_radius else []), "weight"]
    ends = [found.get("tail.0.weight", last.weight), found.get("tail.0.bias", last.bias)]
    assert max(np.abs(ends[0] - last.weight).max(), np.abs(ends[1] - last.bias).max()) <= tail_radius + 1e-6
    assert np.abs(found["weight"] - snapshot.weight).max() <= 0.5 + 1e-6
    hidden = np.maximum(snapshot.inputs @ found["weight"].T.astype(float) + found["bias"], 0)
    value = np.abs(hidden @ ends[0].T.astype(float) + ends[1] - snapshot.targets).mean()
    reported = record["result"]["objective"]
    assert value == pytest.approx(reported["final"], rel=1e-9)
    assert reported["final"] < reported["start"]


def test_what_hidden_layers_do_not_know_is_refused(pool: RunningPool) -> None:
    """Constraints behind an activation, and a tail radius without a tail, give 422 in clear words."""
    with httpx.Client(base_url=pool.url) as http:
        hidden, plain = (
            http.post("/v1/snapshots", content=snapshot.to_bytes(), headers=OCTETS).json()["id"]
            for snapshot in (hidden_snapshot(), small_snapshot())
        )
        asked = {"objective": "mae", "radius": 0.5, "solver": {"formulation": "reference"}, "snapshot": hidden}
        refused = http.post("/v1/jobs", json=asked)
        assert (refused.status_code, refused.json()["code"]) == (422, "not_supported")
        assert refused.json()["field"] == "solver.formulation"
        refused = http.post("/v1/jobs", json={**SPEC, "tail_radius": 0.5, "snapshot": plain})
        assert (refused.status_code, refused.json()["field"]) == (422, "tail_radius")
        assert "no tail" in refused.json()["detail"]


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_CORE"), reason="limits of other processes are seen on Linux alone")
def test_a_crash_would_leave_no_image(pool: RunningPool) -> None:
    """Gateway, workers and their children write no core dumps, which would hold snapshots and keys."""
    for child in living_children(pool.process.pid, recursive=True):
        if "redis" not in child.name():
            assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0), command_line(child)


def test_the_commands_find_a_running_pool_by_its_folder(pool: RunningPool, tmp_path: Path) -> None:
    """`status` and `keys` take the pool's data folder; a folder without a pool gives one clear line."""
    run = CliRunner()
    found = run.invoke(app, ["status", "--once", "--data-dir", str(pool.log.parent / "data")])
    assert found.exit_code == 0, found.output
    assert "1 workers" in found.stdout
    nothing = run.invoke(app, ["keys", "list", "--data-dir", str(tmp_path)])
    assert nothing.exit_code == 1
    assert "no pool runs on" in nothing.stderr


def test_priorities_are_kept(pool: RunningPool) -> None:
    """Of jobs that wait, those of high priority start first, whatever the order in which they came."""
    with httpx.Client(base_url=pool.url) as http:
        blocker = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 100}})
        wait_for(lambda: http.get(f"/v1/jobs/{blocker}").json()["state"] == "running")
        waiting = [
            submit(http, small_snapshot(seed).to_bytes(), {**SPEC, "priority": priority})
            for seed, priority in enumerate(["low", "normal", "high"])
        ]
        http.delete(f"/v1/jobs/{blocker}")
        started = [ended(http, job)["started"] for job in waiting]
    assert started == sorted(started, reverse=True)


def test_a_newer_snapshot_ends_the_older_job(pool: RunningPool) -> None:
    """`supersede` interrupts a running job of the same run, which keeps its incumbent, and then the newer one runs."""
    with httpx.Client(base_url=pool.url) as http:
        run = {**SPEC, "run": "superseded", "supersede": True}
        old = submit(http, long_problem(), {**run, "limits": {"time_s": 100}})
        wait_for(lambda: http.get(f"/v1/jobs/{old}").json()["progress"] is not None)
        new = submit(http, small_snapshot().to_bytes(), run)
        assert ended(http, new)["state"] == "succeeded"
        record = ended(http, old)
    assert record["state"] == "cancelled"
    assert record["result"]["status"] == "interrupted"


def test_a_running_jobs_model_can_be_had(pool: RunningPool) -> None:
    """The worker writes the model on request; the gateway answers 202 until then."""
    with httpx.Client(base_url=pool.url) as http:
        job = submit(http, small_snapshot().to_bytes(), SPEC)
        wait_for(lambda: http.get(f"/v1/jobs/{job}/problem").status_code == 200)
        assert "ROWS" in http.get(f"/v1/jobs/{job}/problem").text


def test_a_killed_child_is_noticed_before_its_lease_ends(tmp_path: Path) -> None:
    """A worker whose child dies gives the job back itself: it runs again though the lease is long."""
    pool = start_pool(tmp_path, environment={"GDSOLVER_LEASE_S": "3600"})
    try:
        with httpx.Client(base_url=pool.url) as http, SolverClient(pool.url) as client:
            job = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 4}})
            wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["progress"] is not None)
            before = http.get(f"/v1/jobs/{job}").json()["progress"]["objective"]
            (worker,) = http.get("/v1/workers").json()["workers"]
            (child,) = psutil.Process(worker["pid"]).children()
            child.kill()
            told = list(client.events(job))
    finally:
        pool.stop()
    assert [event.data["state"] for event in told if event.kind == "state"] == [
        "queued", "running", "queued", "running", "succeeded",
    ]  # fmt: skip
    assert any("was lost" in event.data["message"] for event in told if event.kind == "log")
    assert told[-1].data["objective"]["final"] <= before


def test_a_killed_workers_job_runs_again(tmp_path: Path) -> None:
    """The job of a worker that is killed is requeued after its lease, solved by the next one, and counted once."""
    pool = start_pool(tmp_path, environment={"GDSOLVER_LEASE_S": "2"})
    try:
        with httpx.Client(base_url=pool.url) as http:
            job = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 4}})
            wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "running")
            (worker,) = http.get("/v1/workers").json()["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            record = ended(http, job)
            assert (record["state"], record["attempt"]) == ("succeeded", 2)
            assert http.get("/v1/stats").json()["states"]["succeeded"] == 1
    finally:
        pool.stop()


def test_a_stopping_worker_hands_its_job_on(tmp_path: Path) -> None:
    """SIGTERM interrupts the solve; the job goes back to the queue with its incumbent and uses up no attempt."""
    pool = start_pool(tmp_path)
    try:
        with httpx.Client(base_url=pool.url) as http:
            job = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 4}})
            wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["progress"] is not None)
            (worker,) = http.get("/v1/workers").json()["workers"]
            os.kill(worker["pid"], signal.SIGTERM)
            record = ended(http, job)
            assert (record["state"], record["attempt"]) == ("succeeded", 2)
    finally:
        pool.stop()


def test_jobs_survive_a_restart_of_the_pool(tmp_path: Path) -> None:
    """What was accepted is solved after a restart on the same data folder."""
    first = start_pool(tmp_path)
    with httpx.Client(base_url=first.url) as http:
        blocker = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 100}})
        waiting = submit(http, small_snapshot().to_bytes(), SPEC)
        http.delete(f"/v1/jobs/{blocker}")
    assert first.stop() == 0
    second = start_pool(tmp_path)
    try:
        with httpx.Client(base_url=second.url) as http:
            assert ended(http, waiting)["state"] == "succeeded"
    finally:
        second.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """However the pool ends, in the middle of a job, every one of its processes ends with it."""
    pool = start_pool(tmp_path, workers=2)
    wait_for(lambda: httpx.get(f"{pool.url}/v1/stats").json()["workers"] == 2)
    children = living_children(pool.process.pid, recursive=True)
    assert len(children) >= 6  # Redis, gateway, two workers with a child each
    with httpx.Client(base_url=pool.url) as http:
        job = submit(http, long_problem(), {**SPEC, "limits": {"time_s": 100}})
        wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "running")
    pool.process.send_signal(number)
    assert pool.process.wait(30) == (-number if number is signal.SIGKILL else 0)
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if is_alive(child)]


@pytest.mark.parametrize("part", ["gateway", "up"])
def test_a_key_off_loopback_or_no_pool(part: str) -> None:
    """A gateway that others could reach refuses to start without a key, alone or in a pool, and says what to do."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "solver_service", part, "--host", "0.0.0.0", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "GDSOLVER_API_KEY"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode in (1, 2)
    assert "GDSOLVER_API_KEY" in done.stderr
    assert "keys add" in done.stderr
