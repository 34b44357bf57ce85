"""A job that one pool was given, and another one solves: backup and restore by their commands, on embedded pools."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from shared.contracts import JobSpec, State
from solver_service.cli import app
from tests.conftest import RunningPool, small_snapshot, start_pool
from trainer.pool.client import SolverClient


def command(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    structlog.reset_defaults()
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[list[RunningPool]]:
    started: list[RunningPool] = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        started.append(start_pool(tmp_path / name))
    yield started
    for pool in started:
        assert pool.stop() == 0


def test_a_restored_pool_solves_what_the_other_one_had_queued(pools: list[RunningPool], tmp_path: Path) -> None:
    """Its id, its snapshot and its result are found at the new address; what was over is there as it was."""
    old, new = pools
    spec = JobSpec(objective="ramp", radius=0.1, limits={"time_s": 5})  # type: ignore[arg-type]
    with SolverClient(old.url) as client:
        spec = spec.model_copy(update={"snapshot": client.upload(small_snapshot())})
        over = client.job(client.submit(spec).id, wait=30)
        assert over.state is State.SUCCEEDED
        command("pause", "--data-dir", str(tmp_path / "old" / "data"))
        waiting = client.submit(spec.model_copy(update={"margin": 2.0}))
        before = client.result(over.id)
    file = str(tmp_path / "pool.backup")
    assert "2 jobs (1 of them unfinished), 1 snapshots" in command(
        "backup", file, "--data-dir", str(tmp_path / "old" / "data")
    )
    command("restore", file, "--data-dir", str(tmp_path / "new" / "data"))
    with SolverClient(new.url) as client:
        assert client.job(waiting.id, wait=30).state is State.SUCCEEDED
        assert client.job(over.id) == over
        assert (client.result(over.id).weight == before.weight).all()
