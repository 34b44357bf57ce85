"""Two processes (gloo) whose models begin equal and train apart: what helps the one is not written into the other."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.test_ranks import begun, end

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")

SCRIPT = """
import hashlib, json, logging, os, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import distributed as dist, nn
from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller

rank, out = int(os.environ["RANK"]), sys.argv[1]
torch.set_num_threads(1)
said = []

class Heard(logging.Handler):
    def emit(self, record):
        said.append((record.levelname, record.getMessage()))

logging.getLogger("gdsolver").addHandler(Heard())

def loop(
    *, own=False, rates=(1e-3, 1e-3), parting=99, averaged=False, polish=False, tunnelled=True, pool=None, **more
):
    said.clear()
    generator = torch.Generator().manual_seed(rank if own else 5)
    inputs = torch.randn(160, 5, generator=generator)
    targets = (inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=rates[rank])
    loss = lambda: nn.functional.cross_entropy(model(inputs), targets)
    pool = pool or FakePool(least_squares)
    options = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "radius": 100.0, "sync": True} | more
    made = {"optimizer": optimizer, "mode": "min", "client": pool.client(), **options}
    tunneller = Tunneller(model, validate=lambda: loss().item(), **made) if tunnelled else None
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    for epoch in range(5):
        for _ in range(3):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            if tunneller:
                tunneller.observe(inputs, targets)
        if epoch >= parting and rank:
            with torch.no_grad():
                model[0].weight[-1, -1] += 1e-3
        for parameter in model.parameters() if averaged else ():
            dist.all_reduce(parameter.data)
            parameter.data /= 2
        if tunneller:
            pool.release.set() if epoch == 3 else None
            tunneller.step(1.0)
            if not options["sync"] and rank == 0 and epoch == 3:
                tunneller._worker.idle.wait(30)
    summary = tunneller.close(polish=polish, timeout=20.0) if tunneller else None
    bits = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return {
        "sha": hashlib.sha256(bits).hexdigest(),
        "adopted": summary.adopted if summary else 0,
        "stalls": summary.stalls if summary else 0,
        "snapshots": len(pool.snapshots),
        "warnings": [text for level, text in said if level == "WARNING"],
        "details": [event.detail for event in tunneller.history] if tunneller else [],
        "hint": str(summary),
    }

def beyond_the_first_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 3))
    with torch.no_grad():
        model[0].weight[-1, -1] += rank
    try:
        Tunneller(model, optimizer=torch.optim.Adam(model.parameters()), validate=lambda: 0.0, mode="min",
                  client=FakePool().client())
    except ValueError as error:
        return {"error": str(error)}
    return {"error": None}

found = {"alone": loop(own=True)}
found["data"] = loop(own=True)
found["data, plain"] = loop(own=True, tunnelled=False)
found["rates"] = loop(rates=(1e-3, 1e-2))
found["rates, plain"] = loop(rates=(1e-3, 1e-2), tunnelled=False)
found["last"] = loop(own=True, polish=True, patience=99)
found["last, plain"] = found["data, plain"]
found["out"] = loop(parting=3, sync=False, pool=FakePool(least_squares, held=True))
found["out, plain"] = loop(parting=3, tunnelled=False)
found["averaged"] = loop(own=True, averaged=True)
found["begun"] = beyond_the_first_values()
open(f"{out}/{rank}.json", "w").write(json.dumps(found))
dist.destroy_process_group()
"""

Found = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What became of each loop on either rank."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    processes: list[subprocess.Popen[str]] = begun(SCRIPT, folder, port)
    try:
        said = [process.communicate(timeout=180)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
    finally:
        end(processes)
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return first, second


@pytest.mark.parametrize("how", ["data", "rates", "last", "out"])
def test_ranks_that_train_apart_are_left_alone(ranks: Found, how: str) -> None:
    """By data or a learning rate of each, at a last tunnel, or while a job is out: as if there were no tunneller."""
    for rank in ranks:
        assert rank[how]["adopted"] == 0
        assert rank[how]["sha"] == rank[f"{how}, plain"]["sha"]
    told = [text for text in ranks[0][how]["warnings"] if "have come to differ" in text]
    assert len(told) == 1
    assert "right after that" in told[0]
    assert "before init_process_group" in told[0]
    assert any("have come to differ" in (detail or "") for detail in ranks[0][how]["details"])


@pytest.mark.parametrize("how", ["data", "rates", "last"])
def test_ranks_that_train_apart_cost_the_pool_nothing(ranks: Found, how: str) -> None:
    """What could never be adopted is not solved."""
    assert ranks[0][how]["snapshots"] == 0
    assert "have come to differ" in ranks[0][how]["hint"]


def test_a_job_whose_ranks_part_meanwhile_is_dropped(ranks: Found) -> None:
    """They were the same at the stall, and differ when the answer is there."""
    assert ranks[0]["out"]["snapshots"] >= 1


def test_ranks_that_are_averaged_before_a_check_are_tunnelled(ranks: Found) -> None:
    """Whatever lies between two checks: then they are the same, and they are afterwards."""
    first, second = (rank["averaged"] for rank in ranks)
    assert first["adopted"] >= 1
    assert first["sha"] == second["sha"]
    assert not [text for text in first["warnings"] if "differ" in text]


def test_each_rank_may_have_a_tunneller_of_its_own(ranks: Found) -> None:
    """As the warning says: made before the ranks know of one another."""
    for rank in ranks:
        assert rank["alone"]["adopted"] >= 1
        assert rank["alone"]["snapshots"] == rank["alone"]["stalls"]


def test_models_that_differ_anywhere_are_refused_at_once(ranks: Found) -> None:
    """All values of a parameter are compared, not some."""
    for rank in ranks:
        assert "the ranks' models differ" in (rank["begun"]["error"] or "")
