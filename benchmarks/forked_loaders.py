"""Whether training hangs where a DataLoader forks its workers while a tunneller is busy in the background.

usage: python benchmarks/forked_loaders.py [--runs 200] [--each 20] [--timeout 60] [--json FILE]

A run has a small network, a DataLoader with two forked workers that run torch operators and are started anew for every
epoch, and a tunneller with a stall at every check, whose pool answers at once. `--each` runs share a process. One that
is not done after `--timeout` seconds hangs; its last stack is printed. Exits with 1 if one does.
"""

import argparse
import faulthandler
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.unit.trainer.fakes import FakePool, least_squares  # noqa: E402 (from a checkout, whatever is installed)
from trainer import Tunneller  # noqa: E402

EPOCHS, SAMPLES, FEATURES = 6, 128, 32


class Images(Dataset[Any]):
    """Samples that take products and convolutions to make, as augmentation does: locks that a fork may inherit."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(index))
        smooth = nn.functional.conv2d(image, torch.full((1, 1, 3, 3), 1 / 9), padding=1)
        return (smooth.reshape(-1) @ torch.eye(64)[:, :FEATURES]), index % 4


def train(seed: int) -> None:
    """One short run with as many stalls as there are epochs."""
    torch.manual_seed(seed)
    torch.set_num_threads(2)  # more than one: these are the locks in question
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = Images()
    loader = DataLoader(data, batch_size=32, shuffle=True, num_workers=2, multiprocessing_context="fork")
    inputs = torch.stack([data[index][0] for index in range(SAMPLES)])
    targets = torch.arange(SAMPLES) % 4

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(inputs), targets)

    tunneller = Tunneller(
        model,
        optimizer=optimizer,
        validate=lambda: loss().item(),
        mode="min",
        client=FakePool(least_squares).client(),
        layer="auto",
        patience=1,
        cooldown=0,
        min_delta=0.0,
    )
    for _ in range(EPOCHS):
        for batch, wanted in tunneller.watch(loader):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            tunneller.step(1.0)  # the background is always busy
    print(json.dumps({"stalls": tunneller.close().stalls}), flush=True)


def several(first: int, count: int, timeout: float) -> list[dict[str, Any]]:
    """What became of some runs in a process of their own: done, hung or failed."""
    command = [sys.executable, __file__, "--child", str(first), "--each", str(count), "--timeout", str(timeout)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=(count + 1) * timeout, check=False)
        told, said, code = child.stdout, child.stderr, child.returncode
    except subprocess.TimeoutExpired as error:
        told, said, code = str(error.stdout or ""), "Timeout", 1
    found = [{"became": "done", **json.loads(line)} for line in told.splitlines() if line.startswith("{")]
    if code != 0:
        found.append({"became": "hung" if "Timeout" in said else "failed", "said": said})
    return found


def main() -> None:
    """Run them all, print what became of them, and exit with 1 if one hung or failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--each", type=int, default=20, help="runs of one process")
    options.add_argument("--timeout", type=float, default=60.0, help="seconds of a run that hangs")
    options.add_argument("--json", type=Path)
    options.add_argument("--child", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child is not None:
        for seed in range(chosen.child, chosen.child + chosen.each):
            faulthandler.dump_traceback_later(chosen.timeout, exit=True)
            train(seed)
        return
    found: list[dict[str, Any]] = []
    begun = time.perf_counter()
    while len(found) < chosen.runs and all(run["became"] == "done" for run in found):
        found += several(len(found), min(chosen.each, chosen.runs - len(found)), chosen.timeout)
    counts = {kind: sum(run["became"] == kind for run in found) for kind in ("done", "hung", "failed")}
    stalls, seconds = sum(run.get("stalls", 0) for run in found), time.perf_counter() - begun
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{len(found)} runs: {told}; {stalls} stalls, {seconds:.0f} s")
    for run in [run for run in found if run["became"] != "done"]:
        print(run["said"])
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"runs": len(found), **counts, "stalls": stalls, "seconds": seconds}, indent=1)
        )
    if counts["done"] < chosen.runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
