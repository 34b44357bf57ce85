"""Many workers for one gateway and one Redis: heartbeats, claims and leases as real ones send them, without solving.

    python benchmarks/swarm.py [--workers 0 10 100 1000] [--job-s 20] [--seconds 15] [--json FILE]

For each number of workers, one after another: the pool at rest, and then every worker with a job of `--job-s` seconds
that is renewed, finished and followed by the next. A client asks for a job's status 20 times a second meanwhile; told
are its median and p99, and what part of a core gateway, Redis and the driver took. The driver is a process of its own.
"""

import argparse
import heapq
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from own_pool import ROOT, OwnPool, workless_pool
from stand_in import at_once

from benchmarks.service import tiny
from shared.contracts import JobSpec, State
from solver_service import weights
from solver_service.milp.core.moved import Moved
from solver_service.rules import jobs
from solver_service.settings import Settings
from solver_service.store import Store
from trainer.pool.client import SolverClient

POLLS_PER_S = 20
QUEUED_PER_WORKER = 2
DRIVEN = 250
"""Workers that one driver stands for: it takes a quarter of a core for them."""
BEFORE_S = 3.0
"""Seconds that drivers have before anything is measured."""
Row = dict[str, Any]


class Swarm:
    """Workers that do everything but solve, in turns of one process; `counts` tells what they did."""

    def __init__(self, settings: Settings, workers: range, *, job_s: float) -> None:
        self.store, self.settings, self.job_s = Store.open(settings), settings, job_s
        self.counts: Counter[str] = Counter()
        self.held: dict[int, jobs.Job] = {}
        self.rng = np.random.default_rng(workers.start)
        now = time.monotonic()
        self.due = [(now + self.rng.uniform(0, settings.heartbeat_s), index, "beat") for index in workers]
        self.due += [(now + self.rng.uniform(0, 1.0), index, "claim") for index in workers]
        heapq.heapify(self.due)

    def run(self, seconds: float) -> None:
        """Do what is due when it is due; `late` counts what came more than a second after it."""
        end = time.monotonic() + seconds
        while self.due and self.due[0][0] < end:
            at, index, what = heapq.heappop(self.due)
            time.sleep(max(0.0, at - time.monotonic()))
            self.counts["late"] += time.monotonic() > at + 1.0
            self.counts[what] += 1
            for after, following in getattr(self, what)(index):
                heapq.heappush(self.due, (max(at, time.monotonic() - 1.0) + after, index, following))

    def beat(self, index: int) -> Iterator[tuple[float, str]]:
        """A heartbeat."""
        name = f"simulated-{index}"
        self.store.workers.beat(name, host="swarm", pid=index, slots=1, worker_id=name)
        yield self.settings.heartbeat_s, "beat"

    def claim(self, index: int) -> Iterator[tuple[float, str]]:
        """The next job, if there is one; an idle worker waits for a message, which is a look each second here."""
        job_id = self.store.turns.pick()
        take = partial(jobs.claim, worker=f"simulated-{index}", token=f"{index}:0:{time.monotonic()}")
        job = job_id and self.store.jobs.update(job_id, partial(take, now=self.store.jobs.now()))
        if not job or job.state is not State.RUNNING:
            yield 1.0, "claim"
            return
        self.held[index] = job
        yield self.settings.watch_s, "renew"
        yield self.job_s * self.rng.uniform(0.5, 1.5), "finish"

    def renew(self, index: int) -> Iterator[tuple[float, str]]:
        """What a watchdog does each half second."""
        if index in self.held:
            self.store.jobs.renew(self.held[index].id, self.held[index].attempt)
            yield self.settings.watch_s, "renew"

    def finish(self, index: int) -> Iterator[tuple[float, str]]:
        """A result, and the next job."""
        job = self.held.pop(index)
        snapshot = tiny(None)
        result = at_once(job.spec)
        done = partial(jobs.finish, result=result, attempt=job.attempt, now=self.store.jobs.now())
        data = weights.encode(Moved(snapshot.weight, snapshot.bias), result)
        kept = self.store.jobs.update(job.id, done, result=data)
        self.counts["lost"] += kept is None
        yield 0.0, "claim"


def drive(options: argparse.Namespace) -> None:
    """A driver's process: run a part of the swarm, print what it did."""
    workers = range(*options.workers)
    swarm = Swarm(Settings(redis_url=options.drive), workers, job_s=options.job_s)
    swarm.run(options.seconds)
    for index in workers:
        swarm.store.workers.leave(f"simulated-{index}")
    print(json.dumps({**swarm.counts, "cpu_s": time.process_time()}))


def driver_of(pool: OwnPool, part: range, options: argparse.Namespace) -> "subprocess.Popen[str]":
    """Start one driver."""
    command = [sys.executable, __file__, "--drive", pool.redis_url, "--workers", str(part.start), str(part.stop)]
    command += ["--job-s", str(options.job_s), "--seconds", str(options.seconds + BEFORE_S)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=pool.environment, cwd=ROOT)


def polled(client: SolverClient, job_id: str, seconds: float) -> list[float]:
    """Milliseconds of a status poll, so many a second."""
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        client.job(job_id)
        taken.append(1000 * (time.perf_counter() - began))
        time.sleep(1 / POLLS_PER_S)
    return taken


def cpu_s(pool: OwnPool, name: str) -> float:
    """Processor seconds that a child and its children have taken."""
    root = psutil.Process(pool.pid(name))
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def measure(pool: OwnPool, client: SolverClient, workers: int, options: argparse.Namespace, *, busy: bool) -> Row:
    """One row: so many workers, idle or with jobs, and what a client and the processes feel of them."""
    spec = JobSpec(snapshot=client.upload(tiny(None)), objective="zero_one", radius=0.1, limits={"time_s": 60})
    job_id = client.submit(spec).id
    for _ in range(QUEUED_PER_WORKER * workers if busy else 0):
        client.submit(spec)
    parts = [range(first, min(first + DRIVEN, workers)) for first in range(0, workers, DRIVEN)]
    drivers = [driver_of(pool, part, options) for part in parts]
    time.sleep(BEFORE_S)
    before = {name: cpu_s(pool, name) for name in ("gateway", "redis")}
    taken = sorted(polled(client, job_id, options.seconds))
    shares = {f"{name}_core": (cpu_s(pool, name) - before[name]) / options.seconds for name in before}
    told: Counter[str] = Counter()
    for driver in drivers:
        told.update(json.loads(driver.communicate(timeout=120)[0]))
    seconds = options.seconds + BEFORE_S
    rates = {f"{what}_per_s": told[what] / seconds for what in ("beat", "renew", "claim", "finish")}
    return {
        "workers": workers,
        "busy": busy,
        "poll_median_ms": taken[len(taken) // 2],
        "poll_p99_ms": taken[min(len(taken) - 1, int(0.99 * len(taken)))],
        **shares,
        "drivers_core": told["cpu_s"] / seconds,
        **rates,
        "late": told["late"],
        "lost": told["lost"],
    }


def main() -> None:
    """Measure each number of workers, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 10, 100, 1000])
    parser.add_argument("--job-s", type=float, default=20.0, help="seconds of a job, on average")
    parser.add_argument("--seconds", type=float, default=15.0, help="of polling, for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options)
        return
    rows = []
    with workless_pool() as pool, SolverClient(pool.url) as client:
        for workers in options.workers:
            for busy in (False, True)[: 1 if workers == 0 else 2]:
                rows.append(measure(pool, client, workers, options, busy=busy))
                print(*(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in rows[-1].items()))
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "job_s": options.job_s, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
