"""Breaks a pool on purpose while it works, and counts what became of every job that it had accepted.

    python benchmarks/chaos.py --jobs 300 --workers 4 --faults 40 --seed 1 [--json FILE]

It starts a Redis, a gateway and workers of its own, submits small jobs of all objectives, and every two to four
seconds does one of: SIGKILL to a solving child, SIGKILL to a whole worker, SIGSTOP of a worker for 15 s, SIGKILL to
Redis, SIGKILL or SIGTERM to the gateway, an upload that is cut off. Some jobs are poison: they kill whoever works on
them.

At the end every accepted job must be in one terminal state, told once; results are recomputed from the downloaded
weights; poison must have failed after three workers. Exits with 1 if not.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from own_pool import OwnPool, own_pool, until
from stand_in import POISON

from shared.contracts import JobEvent, JobSpec, JobStatus, State
from shared.snapshot import Snapshot
from trainer.errors import TrainerError
from trainer.pool.client import SolverClient

SOLVERS_AWAY_S = 15.0
FAULTS = ("kill child", "kill worker", "stop worker", "kill redis", "restart gateway", "cut upload")
WEIGHTS = (4, 3, 1, 2, 2, 2)
CLASSIFICATION = ("zero_one", "ramp", "hinge")
REGRESSION = ("mae", "mse", "max_error", "outliers")


@dataclass
class Submitted:
    """A job that the pool accepted, and what it was."""

    job: str
    snapshot: Snapshot
    spec: JobSpec
    poison: bool


@dataclass
class Kill:
    """A job whose attempt was ended by a fault, by the clock that Redis' event ids are of."""

    fault: str
    job: str
    attempt: int
    at: float


@dataclass
class Report:
    """Everything that was seen."""

    faults: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    accepted: list[Submitted] = field(default_factory=list)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def problem(rng: np.random.Generator, *, poison: bool) -> tuple[Snapshot, JobSpec]:
    """A small random stall and a job for it; half of them take their whole time."""
    objective = str(rng.choice(CLASSIFICATION + REGRESSION))
    large = rng.random() < 0.5
    n, d, h = (500, 6, 6) if large else (int(rng.integers(20, 60)), 3, 3)
    if objective in CLASSIFICATION:
        targets = rng.integers(0, h, n)
        inputs = rng.normal(size=(h, d))[targets] + rng.normal(size=(n, d))
    else:
        inputs = rng.normal(size=(n, d))
        targets = (inputs @ rng.normal(size=(d, h)) + rng.normal(size=(n, h))).astype(np.float32)
    snapshot = Snapshot(
        task="classification" if objective in CLASSIFICATION else "regression",
        inputs=inputs.astype(np.float32),
        targets=targets,
        weight=rng.normal(scale=0.5, size=(h, d)).astype(np.float32),
        bias=np.zeros(h, np.float32),
        note={"benchmark": POISON} if poison else {},
    )
    spec = {"objective": objective, "radius": 0.3, "limits": {"time_s": float(rng.choice([1.0, 2.0, 3.0]))}}
    if objective == "outliers":
        spec["tolerance"] = 0.5
    spec["priority"] = str(rng.choice(["high", "normal", "low"]))
    return snapshot, JobSpec.model_validate(spec)


class Submitter(threading.Thread):
    """Posts the jobs evenly over the time of the faults, as a patient trainer would."""

    def __init__(self, url: str, jobs: int, poison: int, seconds: float, seed: int, report: Report) -> None:
        super().__init__(name="submitter", daemon=True)
        self.url, self.jobs, self.seconds, self.report = url, jobs, seconds, report
        self.rng = np.random.default_rng(seed)
        self.poison = set(self.rng.choice(jobs, poison, replace=False).tolist())

    def run(self) -> None:
        """Submit them all."""
        began = time.monotonic()
        with SolverClient(self.url, timeout=10, retries=8) as client:
            for number in range(self.jobs):
                time.sleep(max(0.0, began + self.seconds * number / self.jobs - time.monotonic()))
                snapshot, spec = problem(self.rng, poison=number in self.poison)
                try:
                    status = client.solve(snapshot, spec)
                except TrainerError as error:
                    self.report.refused += 1
                    self.report.wrong.append(f"not accepted: {error}")
                    continue
                self.report.accepted.append(Submitted(status.id, snapshot, spec, number in self.poison))


class Breaker(threading.Thread):
    """Does the faults, one at a time, and notes whom they hit; as a thread it starts again what died."""

    def __init__(self, pool: OwnPool, seed: int, report: Report) -> None:
        super().__init__(name="tender", daemon=True)
        self.pool, self.report, self.random = pool, report, random.Random(seed)
        self.client = SolverClient(pool.url, timeout=3, retries=0)
        self.stopped: dict[str, float] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        """Look after the pool until the end, whatever anybody waits for."""
        while not self.ended.wait(0.1):
            self.tend()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()
        self.client.close()

    def one(self, fault: str) -> None:
        """Do one fault."""
        self.report.faults[fault] += 1
        if fault in ("kill child", "kill worker"):
            self._kill(fault)
        elif fault == "stop worker":
            worker = self.random.choice([f"worker-{n}" for n in range(1, self.pool.workers + 1)])
            self.stopped[worker] = time.monotonic() + SOLVERS_AWAY_S
            self.pool.signal(worker, signal.SIGSTOP)
        elif fault == "kill redis":
            self.pool.signal("redis", signal.SIGKILL)
        elif fault == "restart gateway":
            self.pool.signal("gateway", self.random.choice([signal.SIGKILL, signal.SIGTERM]))
        else:
            self._cut_upload()

    def tend(self) -> None:
        """Wake who was stopped for long enough, and start again what died."""
        for worker, until_then in list(self.stopped.items()):
            if time.monotonic() > until_then:
                self.pool.signal(worker, signal.SIGCONT)
                del self.stopped[worker]
        for name in self.pool.dead():
            self.stopped.pop(name, None)
            self.pool.revive(name)

    def _kill(self, fault: str) -> None:
        """Kill a worker or its child, one that has a job if there is one, and note the job."""
        try:
            running = [job for job in self.client.jobs(state=State.RUNNING, limit=50) if job.worker not in self.stopped]
        except TrainerError:
            running = []  # no gateway, no note
        anybody = [f"worker-{n}" for n in range(1, self.pool.workers + 1)]
        worker = self.random.choice([str(job.worker) for job in running] or anybody)
        hit = [Kill(fault, job.id, job.attempt, time.time()) for job in running if job.worker == worker]
        if fault == "kill worker":
            self.pool.signal(worker, signal.SIGKILL)
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.pool.pid(worker)).children():
                    child.kill()
        self.report.kills += hit

    def _cut_upload(self) -> None:
        body = os.urandom(2_000_000)
        head = (
            "POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Length: {2 * len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.pool.listener.getsockname()[1]), timeout=5) as connection:
            connection.settimeout(2)
            try:
                connection.sendall(head.encode() + body)
            except OSError:
                return  # the gateway is down itself


def told(client: SolverClient, job: str) -> list[JobEvent]:
    """All events of an ended job."""
    return list(client.events(job))


def judge(report: Report, client: SolverClient) -> dict[str, Any]:
    """Look at every accepted job: its state, its events, its weights; returns what was counted."""
    states: Counter[str] = Counter()
    verified, waits, never = 0, {"kill child": [], "kill worker": []}, 0
    kills = {(kill.job, kill.attempt): kill for kill in report.kills}
    for one in report.accepted:
        status = client.job(one.job)
        states[status.state.value] += 1
        events = told(client, one.job)
        report.wrong += [f"{one.job}: {text}" for text in wrongs(one, status, events)]
        if status.state is State.SUCCEEDED:
            text = recomputed(one, status, client)
            report.wrong += [f"{one.job}: {text}"] if text else []
            verified += not text
        began = {
            event.data["attempt"]: int(str(event.id).split("-")[0]) / 1000
            for event in events
            if event.kind == "state" and event.data["state"] == "running"
        }
        ended = {event.data["attempt"] for event in events if event.data.get("state") in ("succeeded", "failed")}
        for attempt in began:
            kill = kills.get((one.job, attempt))
            if kill is None or attempt in ended:
                continue
            if attempt + 1 in began:
                waits[kill.fault].append(began[attempt + 1] - kill.at)
            else:
                never += 1
    return {"states": dict(states), "verified": verified, "waits_s": waits, "killed_and_not_rerun": never}


def wrongs(one: Submitted, status: JobStatus, events: list[JobEvent]) -> list[str]:
    """What is not as promised about one job's record and events."""
    found = []
    state = [event.data["state"] for event in events if event.kind == "state"]
    attempts = [event.data["attempt"] for event in events if event.data.get("state") == "running"]
    if not status.state.terminal:
        found.append(f"lost: still {status.state.value}")
    if sum(State(name).terminal for name in state) != 1:
        found.append(f"ended {sum(State(name).terminal for name in state)} times: {state}")
    if attempts != list(range(1, len(attempts) + 1)):
        found.append(f"attempts {attempts}")
    if one.poison:
        if status.state is not State.FAILED or status.error is None or status.error.code != "worker_lost":
            found.append(f"poison ended as {status.state.value}")
    elif status.state is not State.SUCCEEDED:
        found.append(f"{status.state.value}: {status.error}")
    return found


def recomputed(one: Submitted, status: JobStatus, client: SolverClient) -> str | None:
    """What is wrong with a result, recomputed from the weights downloaded; None if nothing is."""
    candidate = client.result(one.job)
    assert status.result is not None
    value = one.spec.value(one.snapshot, candidate.weight, candidate.bias)
    start = one.spec.value(one.snapshot, one.snapshot.weight, one.snapshot.bias)
    outside = float(np.abs(candidate.weight.astype(float) - one.snapshot.weight).max()) - 0.3
    if value != status.result.objective.final or candidate.result.objective.final != value:
        return f"recomputed {value}, reported {status.result.objective.final}"
    if value > start or outside > 1e-6:
        return f"worse than its start or {outside:g} outside its box"
    return None if candidate.result.attempt == status.attempt else "a result of another attempt"


def run(jobs: int, workers: int, faults: int, seed: int, *, poison: int, pause: tuple[float, float]) -> dict[str, Any]:
    """One whole run; returns the record that is printed."""
    report, chance = Report(), random.Random(seed)
    with own_pool(workers) as pool, Breaker(pool, seed, report) as breaker:
        began = time.monotonic()
        submitter = Submitter(pool.url, jobs, poison, faults * sum(pause) / 2, seed, report)
        submitter.start()
        # Each kind at least once, then by chance.
        plan = list(FAULTS[:faults]) + chance.choices(FAULTS, WEIGHTS, k=max(0, faults - len(FAULTS)))
        chance.shuffle(plan)
        for fault in plan:
            time.sleep(chance.uniform(*pause))
            breaker.one(fault)
        client = SolverClient(pool.url, timeout=10, retries=8)

        def settled() -> bool:
            if submitter.is_alive() or breaker.stopped:
                return False
            stats = client.stats()
            return stats.queued + stats.running == 0

        until(settled, 180, "the jobs did not end")
        seconds = time.monotonic() - began
        stats = client.stats()
        counted = judge(report, client)
        client.close()
        terminal = sum(count for name, count in stats.states.items() if State(name).terminal)
        if terminal != len(report.accepted):
            report.wrong.append(f"{len(report.accepted)} jobs accepted, {terminal} endings counted")
        if report.wrong:
            sys.stderr.write((pool.folder / "pool.log").read_text(errors="replace")[-20000:])
    return {
        "jobs": jobs, "workers": workers, "seed": seed, "poison": poison, "cores": os.cpu_count(),
        "seconds": round(seconds, 1), "accepted": len(report.accepted), "refused": report.refused,
        "faults": dict(report.faults), **counted, "wrong": report.wrong,
    }  # fmt: skip


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    rows = [
        ("jobs accepted", record["accepted"]),
        ("faults", ", ".join(f"{count} {name}" for name, count in sorted(record["faults"].items()))),
        ("ended as", ", ".join(f"{count} {name}" for name, count in sorted(record["states"].items()))),
        ("poison jobs, each failed after three workers", record["poison"]),
        ("results recomputed from their weights", record["verified"]),
    ]
    for fault, waits in record["waits_s"].items():
        if waits:
            figures = f"{statistics.median(waits):.1f} s median, {max(waits):.1f} s worst of {len(waits)}"
            rows.append((f"from `{fault}` to the job's next attempt", figures))
    rows += [("lost, told twice or wrong", len(record["wrong"])), ("seconds in all", record["seconds"])]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    """Run it, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--poison", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    record = run(
        arguments.jobs,
        arguments.workers,
        arguments.faults,
        arguments.seed,
        poison=arguments.poison,
        pause=(2.0, 4.0),
    )
    print(table(record))
    for text in record["wrong"]:
        print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(1 if record["wrong"] else 0)


if __name__ == "__main__":
    main()
