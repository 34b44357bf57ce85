"""Two processes train one model with DDP (gloo): they stay the same bit by bit, and neither waits for a dead one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")

SCRIPT = """
import hashlib, json, os, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from torch import distributed as dist, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Tunneller

rank, out, die = int(os.environ["RANK"]), sys.argv[1], sys.argv[2] == "die"
torch.set_num_threads(1)
dist.init_process_group("gloo")
generator = torch.Generator().manual_seed(3)
inputs = torch.randn(160, 5, generator=generator)
targets = (inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)
torch.manual_seed(rank)
model = DistributedDataParallel(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
data = TensorDataset(inputs, targets)
sampler = DistributedSampler(data, seed=1)
loader = DataLoader(data, batch_size=10, sampler=sampler)

def validate():
    with torch.no_grad():
        mine = (model.module(inputs[rank::2]).argmax(dim=1) != targets[rank::2]).float().mean()
    dist.all_reduce(mine)  # as many people's validation does
    return float(mine)

pool = FakePool(least_squares)
options = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "radius": 100.0, "sync": True}
tunneller = Tunneller(model, optimizer=optimizer, validate=validate, mode="min", client=pool.client(), **options)
for epoch in range(4):
    sampler.set_epoch(epoch)
    for batch, wanted in tunneller.watch(loader):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), wanted).backward()
        optimizer.step()
    if die and rank == 1 and epoch == 1:
        print("dying", flush=True)
        time.sleep(60)
    tunneller.step(1.0)
summary = tunneller.close()
bits = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
found = {"sha": hashlib.sha256(bits).hexdigest(), "adopted": summary.adopted, "snapshots": len(pool.snapshots)}
open(f"{out}/{rank}.json", "w").write(json.dumps(found | {"stalls": summary.stalls}))
"""


def start(folder: Path, port: int, how: str) -> list[subprocess.Popen[str]]:
    return begun(SCRIPT, folder, port, how)


def begun(code: str, folder: Path, port: int, *more: str) -> list[subprocess.Popen[str]]:
    """Two ranks that run the same code, with a folder for what they find."""
    script = folder / "run.py"
    script.write_text(code)
    home = Path(__file__).resolve().parents[2]
    ranks = []
    for rank in range(2):
        shared = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = os.environ | shared | {"PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script), str(folder), *more]
        ranks.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home
            )
        )
    return ranks


def end(ranks: list[subprocess.Popen[str]]) -> None:
    for process in ranks:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def test_ranks_stay_the_same_after_adoptions(tmp_path: Path, free_port: int) -> None:
    """Rank zero decides, with one snapshot a stall, and a validation that itself speaks to all ranks."""
    ranks = start(tmp_path, free_port, "live")
    try:
        said = [process.communicate(timeout=120)[1] for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], said
    finally:
        end(ranks)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["sha"] == second["sha"]
    assert first["adopted"] >= 1
    assert first["snapshots"] == first["stalls"]
    assert second["snapshots"] == 0


def test_a_dead_rank_does_not_hang_the_other(tmp_path: Path, free_port: int) -> None:
    """What it waits for never comes: then it ends with an error instead of waiting for ever."""
    ranks = start(tmp_path, free_port, "die")
    try:
        assert ranks[1].stdout is not None
        assert ranks[1].stdout.readline() == "dying\n"
        ranks[1].send_signal(signal.SIGKILL)
        until = time.monotonic() + 60
        while ranks[0].poll() is None:
            assert time.monotonic() < until, "rank zero hangs"
            time.sleep(0.1)
        assert ranks[0].returncode != 0
    finally:
        end(ranks)
