"""One trainer and many free workers: which part of the time its fan-out keeps them busy.

    python benchmarks/fanout.py [--workers 16] [--time-s 5] [--seconds 60] [--json FILE]

Gateway, Redis and trainer are real; the workers are simulated in a process of their own (`swarm.py`): they take each
job for as long as it may take and give its start back. The trainer's loop is plain GD that has stalled, with
`fanout="free"`. Told is the workers' busy time over all of theirs from the first job on, once with every worker free
and once with all of them held by somebody else's jobs, when a stall sends a single job.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from own_pool import ROOT, OwnPool, until, workless_pool
from stand_in import at_once
from torch import nn

from benchmarks.service import tiny
from benchmarks.swarm import Swarm
from gdsolver import SolverClient, Tunneller
from shared.contracts import JobSpec, Limits
from solver_service import weights
from solver_service.milp.core.moved import Moved
from solver_service.rules import jobs
from solver_service.settings import Settings

LOOKS_EVERY_S = 0.05
"""How often an idle worker looks for a job; a real one is woken at once."""
FIRST_S = 10.0
"""Of training before anything is counted: jobs get no more time than training has had."""
CHECK_S = 0.25
RUN = "many-workers"
Row = dict[str, Any]


class Sleepers(Swarm):
    """Simulated workers that are at each job for its whole time limit; `busy` has each job's begin, end and run."""

    def __init__(self, settings: Settings, workers: range, *, job_s: float) -> None:
        super().__init__(settings, workers, job_s=job_s)
        self.busy: list[tuple[float, float, str | None]] = []

    def claim(self, index: int) -> Iterator[tuple[float, str]]:
        """The next job, for its time limit."""
        for after, what in super().claim(index):
            own = {"claim": LOOKS_EVERY_S, "renew": after}
            yield own[what] if what in own else self.held[index].spec.limits.time_s, what

    def finish(self, index: int) -> Iterator[tuple[float, str]]:
        """The job's own start as its result, and the next job."""
        job, now = self.held.pop(index), time.time()
        self.busy.append((now - job.spec.limits.time_s, now, job.spec.run))
        snapshot = self.store.snapshots.get(job.owner, job.snapshot)
        assert snapshot is not None, "a running job's snapshot is kept"
        result = at_once(job.spec)
        data = weights.encode(Moved(snapshot.weight, snapshot.bias), result)
        done = partial(jobs.finish, result=result, attempt=job.attempt, now=self.store.jobs.now())
        self.counts["lost"] += self.store.jobs.update(job.id, done, result=data) is None
        yield 0.0, "claim"


def drive(options: argparse.Namespace) -> None:
    """The workers' process: serve until the time is up, print when they were busy and for whom."""
    swarm = Sleepers(Settings(redis_url=options.drive), range(options.workers), job_s=0.0)
    swarm.run(options.seconds)
    running = [(time.time(), job.spec.run) for job in swarm.held.values()]
    print(json.dumps({"busy": swarm.busy, "running": running, "lost": swarm.counts["lost"]}))


def train(client: SolverClient, options: argparse.Namespace, seconds: float) -> Tunneller:
    """Plain GD on noise, which stalls at once and never gains; a check each quarter of a second."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))
    inputs, labels = torch.randn(2000, 32), torch.randint(0, 10, (2000,))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def validate() -> float:
        with torch.no_grad():
            return float((net(inputs).argmax(dim=1) == labels).float().mean())

    tunneller = Tunneller(
        *(net,), optimizer=optimizer, validate=validate, mode="max", data=(inputs, labels), client=client,
        fanout="free", time_s=options.time_s, patience=1, cooldown=0, run=RUN,
    )  # fmt: skip
    end, check = time.monotonic() + seconds, time.monotonic() + CHECK_S
    while time.monotonic() < end:
        chosen = torch.randint(0, 2000, (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
        if time.monotonic() > check:
            tunneller.step(validate())
            check = time.monotonic() + CHECK_S
    return tunneller


def measure(pool: OwnPool, client: SolverClient, options: argparse.Namespace, *, held: bool) -> Row:
    """Train beside the workers, all free at first or all held by another run for the whole time."""
    seconds = FIRST_S + options.seconds
    if held:
        spec = JobSpec(snapshot=client.upload(tiny(None)), objective="zero_one", radius=0.1, run="another")
        for _ in range(options.workers):
            client.submit(spec.model_copy(update={"limits": Limits(time_s=seconds + 10)}))
    command = [sys.executable, __file__, "--drive", pool.redis_url, "--workers", str(options.workers)]
    command += ["--seconds", str(seconds + 2)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=pool.environment, cwd=ROOT)
    until(lambda: client.stats().slots == options.workers, 20, "the workers did not come")
    if held:
        until(lambda: client.stats().running == options.workers, 20, "the workers were not held")
    began = time.time()
    tunneller = train(client, options, seconds)
    events = tunneller.history
    tunneller.close()
    told = json.loads(driver.communicate(timeout=60)[0])
    first, last = began + FIRST_S, began + seconds
    busy = sum(max(0.0, min(end, last) - max(start, first)) for start, end, run in told["busy"] if run == RUN)
    stalls = sum(event.kind == "stall" for event in events)
    return {
        "workers": options.workers,
        "held by another run": held,
        "stalls": stalls,
        "jobs": sum(event.kind == "submitted" for event in events),
        "busy share": busy / (options.workers * options.seconds),
        "lost": told["lost"],
    }


def main() -> None:
    """Measure both, print the rows, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--time-s", type=float, default=5.0, help="seconds of a job")
    parser.add_argument("--seconds", type=float, default=60.0, help="that are counted, for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options)
        return
    rows = []
    for held in (False, True):
        with workless_pool() as pool, SolverClient(pool.url) as client:
            rows.append(measure(pool, client, options, held=held))
        print(*(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}," for name, v in rows[-1].items()))
    if options.json:
        about = {"cores": os.cpu_count(), "job_s": options.time_s, "seconds": options.seconds}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
