"""The images and docker-compose.yml as users run them: up, solved through the published port, scaled, killed."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, small_snapshot, wait_for
from tests.e2e.composed import COMPOSE, Pool, docker, missing_engine, size_of

TERMINAL = ("succeeded", "failed", "cancelled", "expired")
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    reason = missing_engine()
    if reason:
        pytest.skip(reason)
    pool = Pool()
    try:
        for service in ("gateway", "worker"):  # one after the other: they share their layers
            pool.compose("build", service)
        pool.up(workers=1)
        yield pool
    finally:
        pool.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--rmi", "local")
        assert pool.left() == []


# The first test waits for the images to be built.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


def solve(http: httpx.Client, snapshot: bytes, *, time_s: float, seed: int = 0) -> str:
    spec = {"objective": "zero_one", "radius": 0.3, "limits": {"time_s": time_s}, "solver": {"seed": seed}}
    answer = http.post("/v1/solve", data={"spec": json.dumps(spec)}, files={"snapshot": snapshot})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def record(http: httpx.Client, job: str) -> dict[str, Any]:
    return dict(http.get(f"/v1/jobs/{job}").json())


def ended(http: httpx.Client, job: str, *, within_s: float = 90) -> dict[str, Any]:
    wait_for(lambda: record(http, job)["state"] in TERMINAL, within_s=within_s)
    return record(http, job)


def done_of(http: httpx.Client, jobs: list[str]) -> list[str]:
    return [job for job in jobs if record(http, job)["state"] in TERMINAL]


def long_problem() -> bytes:
    """A problem that no solver finishes in a few seconds."""
    return small_snapshot(3, n=1500, d=5, classes=6).to_bytes()


def test_a_job_by_curl_is_solved_through_the_published_port(pool: Pool, tmp_path: Path) -> None:
    """As soon as `up --wait` returns, a job posted by curl with the key is solved, and its weights can be fetched."""
    (tmp_path / "spec.json").write_text('{"objective": "zero_one", "radius": 0.3, "limits": {"time_s": 5}}')
    (tmp_path / "stall.safetensors").write_bytes(small_snapshot().to_bytes())

    def curl(*arguments: str) -> bytes:
        command = ["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {pool.key}", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout

    api = f"http://127.0.0.1:{pool.port}/v1"
    job = json.loads(curl("-F", "spec=@spec.json", "-F", "snapshot=@stall.safetensors", f"{api}/solve"))["id"]
    done = json.loads(curl(f"{api}/jobs/{job}?wait=30"))
    assert done["state"] == "succeeded", done
    assert done["result"]["objective"]["final"] < done["result"]["objective"]["start"]
    assert len(curl(f"{api}/jobs/{job}/result")) > 0


def test_without_the_key_nothing_is_served(pool: Pool) -> None:
    """The published port answers 401 to whoever has no key, or a wrong one."""
    with pool.http() as http:
        for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}):
            assert http.get("/v1/workers", headers=headers).status_code == 401


@pytest.mark.parametrize("variable", ["GDSOLVER_API_KEY", "GDSOLVER_REDIS_PASSWORD"])
def test_compose_asks_for_the_secrets(pool: Pool, variable: str) -> None:
    """Without one of the two secrets compose starts nothing and says how to make one."""
    environment = {**pool.environment, variable: ""}
    command = [*COMPOSE, "--project-name", pool.project, "config"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Make one" in done.stderr


def test_no_secret_is_on_a_command_line(pool: Pool) -> None:
    """Neither the API key nor Redis' password can be read in the machine's list of processes."""
    for service in ("redis", "gateway", "worker"):
        shown = docker("top", pool.containers(service)[0]["Id"])
        assert pool.key not in shown
        assert pool.environment["GDSOLVER_REDIS_PASSWORD"] not in shown


def test_nothing_runs_as_root_or_can_write_to_its_image(pool: Pool) -> None:
    """Each process has a user that is not root's, no capability, and a root that it cannot write to."""
    for service in ("redis", "gateway", "worker"):
        host = pool.containers(service)[0]["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert pool.in_image(service, "id", "-u").strip() != "0"
        refused = pool.in_image(service, "sh", "-c", "touch /opt/x ./x 2>&1; grep CapEff /proc/self/status; true")
        assert "Read-only" in refused or "Permission denied" in refused
        assert int(refused.split("CapEff:")[1].split()[0], 16) == 0
    for service in ("gateway", "worker"):
        assert pool.in_image(service, "id", "-u").strip() == "10001"


def test_images_hold_only_what_they_need(pool: Pool) -> None:
    """No torch in gateway and worker, no solver in the gateway, no web framework in the worker; no compiler, no pip."""
    look = "from importlib.metadata import distributions; print(*(d.name.lower() for d in distributions()))"
    unwanted = {"gateway": {"torch", "pyscipopt", "highspy", "pip"}, "worker": {"torch", "fastapi", "pip"}}
    for service, names in unwanted.items():
        assert not names & set(pool.in_image(service, "python", "-c", look).split())
        assert pool.in_image(service, "sh", "-c", "which cc gcc c++ make; ls -d ~/.cache /build; true").strip() == ""


def test_images_are_small_and_say_what_they_are(pool: Pool) -> None:
    """On top of its base the gateway takes less than 200 MB, the worker less than 350 MB; both bear the OCI labels."""
    base = size_of(pool.bases.get("GDSOLVER_PYTHON_IMAGE") or pinned_base())
    for service, most in {"gateway": 200 * MEGABYTE, "worker": 350 * MEGABYTE}.items():
        image = pool.image_of(service)
        assert size_of(image) - base < most
        labels = json.loads(docker("image", "inspect", image))[0]["Config"]["Labels"]
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert labels["org.opencontainers.image.version"]


def pinned_base() -> str:
    """The base that the Dockerfile names."""
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    (base,) = [line.partition("=")[2] for line in lines if line.startswith("ARG PYTHON_IMAGE=")]
    return base


def test_health_is_red_within_30_s_of_losing_redis(pool: Pool) -> None:
    """Cut off from Redis, gateway and worker turn unhealthy within 30 s; with it back both are healthy again."""
    redis = pool.containers("redis")[0]["Id"]
    network = f"{pool.project}_default"
    docker("network", "disconnect", network, redis)
    try:
        wait_for(lambda: {pool.health("gateway"), pool.health("worker")} == {"unhealthy"}, within_s=30)
        assert pool.health("redis") == "healthy"  # it is the way to it that is cut
    finally:
        docker("network", "connect", "--alias", "redis", network, redis)
    wait_for(lambda: {pool.health("gateway"), pool.health("worker")} == {"healthy"}, within_s=60)


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


def test_30_jobs_survive_the_kill_of_a_worker_and_of_redis(pool: Pool) -> None:
    """Thirty jobs are spread over three workers; one is killed in the middle, and Redis once: all thirty succeed."""
    pool.up(workers=3)
    with pool.http() as http:
        listed = {worker["name"] for worker in http.get("/v1/workers").json()["workers"]}
        assert len(listed) == 3
        problem = long_problem()
        jobs = [solve(http, problem, time_s=2, seed=seed) for seed in range(30)]
        wait_for(lambda: len(done_of(http, jobs)) >= 8, within_s=120)
        docker("kill", pool.containers("worker")[0]["Id"])
        wait_for(lambda: len(done_of(http, jobs)) >= 16, within_s=120)
        docker("kill", pool.containers("redis")[0]["Id"])
        pool.up(workers=3)
        ends = [ended(http, job, within_s=180) for job in jobs]
    assert [done["state"] for done in ends] == ["succeeded"] * 30
    assert listed <= {done["worker"] for done in ends}


@pytest.mark.skipif(
    not os.environ.get("GDSOLVER_WHEELS"), reason="GDSOLVER_WHEELS names no folder with a CPU-only torch"
)
def test_the_trainer_adopts_a_tunnel(pool: Pool, tmp_path: Path) -> None:
    """`up trainer` trains against the pool, as nobody in particular on a read-only root, and adopts a tunnel."""
    pool.compose("--profile", "train", "build", "trainer")
    said = pool.compose("--profile", "train", "up", "--no-recreate", "trainer")
    (trainer,) = pool.containers("trainer")
    assert trainer["State"]["ExitCode"] == 0, said
    assert trainer["HostConfig"]["ReadonlyRootfs"]
    assert trainer["Config"]["User"] == "10001:10001"
    docker("cp", f"{trainer['Id']}:/home/gdsolver/runs/formula/report.json", str(tmp_path / "report.json"))
    (hybrid,) = json.loads((tmp_path / "report.json").read_text())["methods"]
    assert hybrid["adopted"] >= 1
