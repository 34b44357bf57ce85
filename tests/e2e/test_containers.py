"""The images and docker-compose.yml as users run them: up, solved through the published port, scaled, stopped."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, small_snapshot, wait_for

# Named, so that a developer's own docker-compose.override.yml is left out.
COMPOSE = ("docker", "compose", "--file", "docker-compose.yml")
TERMINAL = ("succeeded", "failed", "cancelled", "expired")


def missing_engine() -> str | None:
    """Say why no container can be run here, if so."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        subprocess.run(["docker", "info"], capture_output=True, check=True, timeout=20)
    except subprocess.SubprocessError:
        return "no Docker engine answers"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Pool:
    """A compose project of the test's own, beside any that the user runs."""

    project: str = field(default_factory=lambda: f"gdsolver-test-{secrets.token_hex(3)}")
    key: str = field(default_factory=secrets.token_hex)
    port: int = field(default_factory=free_port)

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` and return its output; a failure shows what it said."""
        environment = {
            **os.environ,
            "GDSOLVER_API_KEY": self.key,
            "GDSOLVER_REDIS_PASSWORD": self.key,
            "GDSOLVER_PORT": str(self.port),
        }
        command = [*COMPOSE, "--project-name", self.project, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *, workers: int) -> None:
        """Return when the gateway and that many workers are healthy."""
        self.compose("up", "--detach", "--wait", "--scale", f"worker={workers}")

    def in_image(self, service: str, *command: str) -> str:
        """Run a command in the service's container, as its user."""
        return self.compose("exec", "-T", service, *command)

    def http(self) -> httpx.Client:
        """Open a client with the key, on the published port."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {self.key}"}, timeout=60
        )


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    reason = missing_engine()
    if reason:
        pytest.skip(reason)
    pool = Pool()
    try:
        pool.compose("build")
        pool.up(workers=1)
        yield pool
    finally:
        pool.compose("down", "--volumes", "--remove-orphans", "--rmi", "local")


# The first test waits for the images to be built.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


def solve(http: httpx.Client, snapshot: bytes, *, time_s: float, seed: int = 0) -> str:
    spec = {"objective": "zero_one", "radius": 0.3, "limits": {"time_s": time_s}, "solver": {"seed": seed}}
    answer = http.post("/v1/solve", data={"spec": json.dumps(spec)}, files={"snapshot": snapshot})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def record(http: httpx.Client, job: str) -> dict[str, Any]:
    return dict(http.get(f"/v1/jobs/{job}").json())


def ended(http: httpx.Client, job: str) -> dict[str, Any]:
    wait_for(lambda: record(http, job)["state"] in TERMINAL, within_s=90)
    return record(http, job)


def long_problem() -> bytes:
    """A problem that no solver finishes in a few seconds."""
    return small_snapshot(3, n=1500, d=5, classes=6).to_bytes()


def test_a_job_is_solved_through_the_published_port(pool: Pool) -> None:
    """As soon as `up --wait` returns, a job posted with the key is solved and its weights can be fetched."""
    with pool.http() as http:
        assert http.get("/readyz").status_code == 200
        job = solve(http, small_snapshot().to_bytes(), time_s=5)
        done = ended(http, job)
        assert done["state"] == "succeeded", done
        assert done["result"]["objective"]["final"] < done["result"]["objective"]["start"]
        assert http.get(f"/v1/jobs/{job}/result").status_code == 200


def test_without_the_key_nothing_is_served(pool: Pool) -> None:
    """The published port answers 401 to whoever has no key, or a wrong one."""
    with pool.http() as http:
        for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}):
            assert http.get("/v1/workers", headers=headers).status_code == 401


def test_compose_asks_for_a_key(pool: Pool) -> None:
    """Without GDSOLVER_API_KEY compose starts nothing and says how to make one."""
    environment = {**os.environ, "GDSOLVER_API_KEY": ""}
    command = [*COMPOSE, "--project-name", pool.project, "config"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Make one: echo" in done.stderr


def test_nothing_runs_as_root(pool: Pool) -> None:
    """The processes of gateway and worker have a numeric user that is not root's."""
    for service in ("gateway", "worker"):
        assert pool.in_image(service, "id", "-u").strip() == "10001"


def test_images_hold_only_what_they_need(pool: Pool) -> None:
    """There is no torch in gateway and worker, no solver in the gateway, and no web framework in the worker."""
    unwanted = {"gateway": {"torch", "pyscipopt", "highspy"}, "worker": {"torch", "fastapi"}}
    for service, names in unwanted.items():
        packages = json.loads(pool.in_image(service, "pip", "list", "--format", "json", "--disable-pip-version-check"))
        assert not names & {package["name"].lower() for package in packages}


def test_a_stopped_worker_hands_its_job_on(pool: Pool) -> None:
    """`docker compose stop worker` in mid-job requeues the job with its incumbent; a later worker finishes it."""
    with pool.http() as http:
        job = solve(http, long_problem(), time_s=8)
        wait_for(lambda: record(http, job)["progress"] is not None)
        pool.compose("stop", "worker")
        handed_on = record(http, job)
        assert handed_on["state"] == "queued"
        assert handed_on["progress"]["objective"] is not None
        pool.compose("start", "worker")
        done = ended(http, job)
    assert done["state"] == "succeeded", done
    assert done["attempt"] == 2
    assert done["result"]["objective"]["final"] <= handed_on["progress"]["objective"]


def test_queued_jobs_outlive_the_whole_pool(pool: Pool) -> None:
    """A job accepted while no worker runs is still there, and solved, after `down` and `up`."""
    with pool.http() as http:
        pool.compose("stop", "worker")
        job = solve(http, small_snapshot().to_bytes(), time_s=5)
        time.sleep(1.1)  # Redis writes its log to disk once a second
    pool.compose("down")
    pool.up(workers=1)
    with pool.http() as http:
        assert ended(http, job)["state"] == "succeeded"


def test_more_workers_share_the_jobs(pool: Pool) -> None:
    """After `--scale worker=2` both workers are listed, and jobs posted together are served by both."""
    pool.up(workers=2)
    with pool.http() as http:
        listed = {worker["name"] for worker in http.get("/v1/workers").json()["workers"]}
        jobs = [solve(http, long_problem(), time_s=3, seed=seed) for seed in range(4)]
        served_by = {ended(http, job)["worker"] for job in jobs}
    assert len(listed) == 2
    assert served_by == listed
