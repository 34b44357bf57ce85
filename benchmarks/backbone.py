"""What a stall costs as the backbone grows: 100k, 10M and 100M parameters under the same head.

usage: python benchmarks/backbone.py [--sizes 100_000,10_000_000,100_000_000] [--stalls 15] [--device cuda]
       [--json FILE]

Each size is trained in processes of its own: with a tunneller whose pool answers at once (no network), and without.
Printed are, per size: the bytes sent for a stall; the seconds of a step() at a stall, those of the budgeted passes over
samples in it, and what is left, at the stall where least is left, as other work on the machine only adds; and memory:
the most that a step() takes for itself, beside what the model's own forward pass over one batch takes, and the peak of
the process with the tunneller less without; with a model on a GPU, that of its tensors there. All but the passes has
to be the same for all sizes: the model is never copied. 100M parameters take about 1.5 GB. Linux only.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.columns import columns  # noqa: E402
from tests.unit.trainer.fakes import FakePool  # noqa: E402 (from a checkout, whatever is installed)
from trainer import Tunneller  # noqa: E402

INPUTS, FEATURES, CLASSES, ROWS, BATCH = 100, 64, 10, 64, 32
STALLED = 1.0


def network(parameters: int) -> nn.Module:
    """A backbone of about so many parameters, with a square layer in its middle, and a head of 64 features."""
    around = INPUTS + FEATURES + 2
    width = round((math.sqrt(around**2 + 4 * parameters) - around) / 2)
    return nn.Sequential(
        *(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
        *(nn.Linear(width, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES)),
    )


def train(parameters: int, stalls: int, device: str, *, tunnelled: bool) -> dict[str, Any]:
    """Train for some epochs; with a tunneller every step() is a stall, whose answer is looked at in the next one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(parameters).to(device)
    memory = Memory(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    inputs, targets = torch.randn(ROWS, INPUTS), torch.randint(0, CLASSES, (ROWS,))
    batches = list(zip(torch.split(inputs.to(device), BATCH), torch.split(targets.to(device), BATCH), strict=True))
    pool, tunneller = FakePool(), None
    if tunnelled:
        settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "capture_s": 600.0}
        tunneller = Tunneller(
            model, optimizer=optimizer, validate=lambda: STALLED, mode="min", client=pool.client(), **settings
        )
    steps, peaks = list[dict[str, float]](), list[float]()
    for epoch in range(stalls + 2):
        for batch, wanted in tunneller.watch(batches) if tunneller else batches:
            optimizer.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(model(batch), wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        peaks.append(memory.most_mb())
        if tunneller:
            tunneller._worker.idle.wait(600)  # an answer is there before the next stall
            before, held, begun = tunneller.summary(), memory.anew_mb(), time.perf_counter()
            tunneller.step(STALLED)
            memory.settle()
            took, after = time.perf_counter() - begun, tunneller.summary()
            peaks.append(memory.most_mb())
            if epoch > 1 and after.stalls > before.stalls:
                passes = after.capture_s - before.capture_s + after.trial_s - before.trial_s
                steps.append(
                    {"step_s": took, "passes_s": passes, "rest_s": took - passes, "stall_mb": peaks[-1] - held}
                )
    found: dict[str, Any] = {"parameters": sum(part.numel() for part in model.parameters())}
    if tunneller:
        tunneller.close()
        sent = [len(request.content) for request in pool.requests if request.method == "POST"]
        found |= {"bytes": max(sent)} | min(steps, key=lambda step: step["rest_s"])
        found["stall_mb"] = max(step["stall_mb"] for step in steps)
    held = memory.anew_mb()
    with torch.no_grad():
        model(batches[0][0])
    return found | {"peak_mb": max(peaks), "forward_mb": memory.most_mb() - held}


class Memory:
    """What this process has in memory: of the machine, or its tensors on a GPU."""

    def __init__(self, device: str) -> None:
        self.gpu = device != "cpu"

    def settle(self) -> None:
        """Wait for what a GPU still has to do."""
        if self.gpu:
            torch.cuda.synchronize()

    def anew_mb(self) -> float:
        """What is there now; the peak counts from here."""
        self.settle()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        return self.most_mb()

    def most_mb(self) -> float:
        """The peak, since the process began or was last counted anew."""
        if self.gpu:
            return torch.cuda.max_memory_allocated() / 2**20
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024


def in_child(parameters: int, stalls: int, device: str, *, tunnelled: bool) -> dict[str, Any]:
    """The same in a process of its own: a peak is a process's."""
    command = [sys.executable, __file__, "--child", str(parameters), "--stalls", str(stalls), "--device", device]
    command += ["--tunnelled"] if tunnelled else []
    # What is freed is given back, or it would count: by the allocator, and by MKL, which keeps its working memory (of
    # the size of the matrices) for every shape of batch.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MKL_DISABLE_FAST_MM": "1"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure each size, print a table, and write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default="100_000,10_000_000,100_000_000")
    options.add_argument("--stalls", type=int, default=15)
    options.add_argument("--device", default="cpu", help="of model and data, such as cuda")
    options.add_argument("--json", type=Path)
    options.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options.add_argument("--tunnelled", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(train(chosen.child, chosen.stalls, chosen.device, tunnelled=chosen.tunnelled)))
        return
    found = []
    for size in map(int, chosen.sizes.split(",")):
        plain = in_child(size, chosen.stalls, chosen.device, tunnelled=False)
        measured = in_child(size, chosen.stalls, chosen.device, tunnelled=True)
        found.append(measured | {"beyond_mb": measured["peak_mb"] - plain["peak_mb"]})
    told = {"step() ms": "step_s", "passes ms": "passes_s", "the rest ms": "rest_s"}
    held = {"stall MB": "stall_mb", "forward MB": "forward_mb", "peak MB": "peak_mb", "beyond plain MB": "beyond_mb"}
    rows = []
    for row in found:
        figures = [f"{1000 * row[name]:.2f}" for name in told.values()] + [f"{row[name]:.1f}" for name in held.values()]
        rows.append((f"{row['parameters']:,}", f"{row['bytes']:,}", *figures))
    print(columns(("parameters", "bytes sent", *told, *held), rows))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
