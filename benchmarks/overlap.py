"""Shows that training never waits: a pool that delays every answer, and what step() and GD do meanwhile.

usage: python benchmarks/overlap.py [--delay 30] [--seconds 70] [--json FILE]

The fake pool answers each job after `--delay` seconds. Printed are the longest step() less the user's own validate(),
the GD steps done while a job was out, and GD's speed with and without the tunneller.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer.lab.loop import Clock
from trainer.lab.report import write_json
from trainer.lab.tasks import Request, Task, load_task
from trainer.tunneller import Tunneller


class SlowPool(FakePool):
    """Finishes a job `delay` seconds after it was posted."""

    def __init__(self, delay: float) -> None:
        super().__init__(least_squares)
        self._delay = delay
        self._due = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Hold a job back until it is due; a long poll is held back with it."""
        if request.url.path == "/v1/solve":
            self._due = time.monotonic() + self._delay
            self.release.clear()
        wait = min(float(request.url.params.get("wait", 0)), max(0.0, self._due - time.monotonic()))
        time.sleep(wait)
        if time.monotonic() >= self._due:
            self.release.set()
        return super().handle_request(request)


def train(task: Task, seconds: float, pool: FakePool | None) -> dict[str, Any]:
    """Train for a fixed time, with a tunneller if there is a pool, and measure."""
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=task.defaults.adam_lr)
    tunneller = None
    if pool is not None:
        tunneller = Tunneller(
            model,
            optimizer=optimizer,
            data=(task.train.inputs, task.train.targets),
            validate=lambda: task.score(model, task.validation),
            client=pool.client(),
            mode="max",
            patience=2,
            min_delta=1e-3,
        )
    clock, steps = Clock(), 0
    while clock.seconds() < seconds:
        for chosen in torch.split(torch.randperm(len(task.train)), 16):
            optimizer.zero_grad()
            task.loss(model(task.train.inputs[chosen]), task.train.targets[chosen]).backward()
            optimizer.step()
            steps += 1
        score = task.score(model, task.selection)
        if tunneller:
            tunneller.step(score)
    found: dict[str, Any] = {"gd_steps": steps, "gd_steps_per_s": steps / clock.seconds()}
    if tunneller:
        summary = tunneller.close()
        found |= {
            "answers": summary.answers,
            "adopted": summary.adopted,
            "gd_steps_during_jobs": summary.gd_steps_during_jobs,
            "longest_step_ms": summary.longest_step_ms,
        }
    return found


def main() -> None:
    """Measure, print a table, and write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--delay", type=float, default=30.0, help="seconds until each answer")
    options.add_argument("--seconds", type=float, default=70.0, help="how long to train with the tunneller")
    options.add_argument("--json", type=Path, default=Path("runs/bench-overlap.json"))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    task = load_task(Request("digits"), seed=0)
    plain = train(task, min(10.0, chosen.seconds), None)
    tunnelled = train(task, chosen.seconds, SlowPool(chosen.delay))
    table = Table("figure", "plain GD", f"answers after {chosen.delay:g} s", title="overlap")
    for name in tunnelled:
        shown = [f"{found[name]:,.2f}".removesuffix(".00") if name in found else "" for found in (plain, tunnelled)]
        table.add_row(name.replace("_", " "), *shown)
    Console().print(table)
    write_json(chosen.json, {"delay_s": chosen.delay, "plain": plain, "tunnelled": tunnelled})


if __name__ == "__main__":
    main()
