"""Breaks a pool on purpose while it works, and counts what became of every job that it had accepted.

    python benchmarks/chaos.py --jobs 300 --workers 4 --faults 60 --seed 1 [--json FILE]

It starts a Redis, a gateway and workers of its own, submits small jobs of all objectives, and every two to four
seconds does one of the faults of `chaos_faults.py`. Some jobs are poison: they kill whoever works on them.

At the end every accepted job must be in one terminal state, told once; results are recomputed from the downloaded
weights; poison must have failed after three workers, and so must what lost three workers to faults; and every attempt
that was charged as lost must have been on a worker that a fault had hit. Exits with 1 if not.
"""

import argparse
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from chaos_faults import FAULTS, RERUN, WEIGHTS, Breaker, Hit
from own_pool import own_pool, until
from stand_in import POISON

from shared.contracts import JobEvent, JobSpec, JobStatus, State
from shared.snapshot import Snapshot
from solver_service.rules.jobs import MAX_LOST
from trainer.errors import TrainerError
from trainer.pool.client import SolverClient

CLASSIFICATION = ("zero_one", "ramp", "hinge")
DISTURBED = ", then a fault of the whole pool"
REGRESSION = ("mae", "mse", "max_error", "outliers")


@dataclass
class Submitted:
    """A job that the pool accepted, and what it was."""

    job: str
    snapshot: Snapshot
    spec: JobSpec
    poison: bool


@dataclass
class Report:
    """Everything that was seen."""

    faults: Counter[str] = field(default_factory=Counter)
    hits: list[Hit] = field(default_factory=list)
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


def told(client: SolverClient, job: str) -> list[JobEvent]:
    """All events of an ended job."""
    return list(client.events(job))


def judge(report: Report, client: SolverClient, breaker: Breaker) -> dict[str, Any]:
    """Look at every accepted job: its state, its events, its weights; returns what was counted."""
    states: Counter[str] = Counter()
    verified, never, charged, thrice = 0, 0, 0, 0
    waits: dict[str, list[float]] = {f"{fault}{more}": [] for fault in RERUN for more in ("", DISTURBED)}
    kills = {(hit.job, hit.attempt): hit for hit in report.hits if hit.fault in RERUN and hit.job is not None}
    for one in report.accepted:
        status = client.job(one.job)
        states[status.state.value] += 1
        events = told(client, one.job)
        lost_thrice = not one.poison and len(losses(events)) == MAX_LOST
        thrice += lost_thrice
        ends_as = State.FAILED if one.poison or lost_thrice else State.SUCCEEDED
        report.wrong += [f"{one.job}: {text}" for text in wrongs(status, events, ends_as)]
        if status.state is State.SUCCEEDED:
            text = recomputed(one, status, client)
            report.wrong += [f"{one.job}: {text}"] if text else []
            verified += not text
        began = {
            event.data["attempt"]: told_at(event)
            for event in events
            if event.kind == "state" and event.data["state"] == "running"
        }
        ended = {event.data["attempt"] for event in events if event.data.get("state") in ("succeeded", "failed")}
        for worker, attempt, at in losses(events):
            charged += 1
            if not one.poison and not any(hit.explains(worker, began.get(attempt, at), at) for hit in report.hits):
                report.wrong.append(f"{one.job}: attempt {attempt} was charged to {worker}, which was healthy")
        for attempt in began:
            kill = kills.get((one.job, attempt))
            if kill is None or attempt in ended:
                continue
            if attempt + 1 in began:
                again = began[attempt + 1]
                more = "" if breaker.undisturbed(kill.at, again) else DISTURBED
                waits[f"{kill.fault}{more}"].append(breaker.awake_s(kill.at, again))
            else:
                never += 1
    return {
        "states": dict(states),
        "verified": verified,
        "waits_s": waits,
        "killed_and_not_rerun": never,
        "charged": charged,
        "lost_thrice": thrice,
    }


def losses(events: list[JobEvent]) -> list[tuple[str, int, float]]:
    """Attempts that were charged as lost: (worker, attempt, when)."""
    found = []
    for event in events:
        words = str(event.data.get("message", "")).split()
        if event.kind == "log" and words[2:4] == ["was", "lost"]:
            found.append((words[1], int(event.data["attempt"]), told_at(event)))
    return found


def told_at(event: JobEvent) -> float:
    """When an event was told, by Redis' clock."""
    return int(str(event.id).split("-")[0]) / 1000


def wrongs(status: JobStatus, events: list[JobEvent], ends_as: State) -> list[str]:
    """What is not as promised about one job's record and events; of poison, and of who lost three workers, to fail."""
    found = []
    state = [event.data["state"] for event in events if event.kind == "state"]
    attempts = [event.data["attempt"] for event in events if event.data.get("state") == "running"]
    if not status.state.terminal:
        found.append(f"lost: still {status.state.value}")
    if sum(State(name).terminal for name in state) != 1:
        found.append(f"ended {sum(State(name).terminal for name in state)} times: {state}")
    if attempts != list(range(1, len(attempts) + 1)):
        found.append(f"attempts {attempts}")
    code = None if status.error is None else status.error.code
    if status.state is not ends_as or (ends_as is State.FAILED and code != "worker_lost"):
        found.append(f"{status.state.value} instead of {ends_as.value}: {status.error}")
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


def run(
    jobs: int,
    workers: int,
    faults: int,
    seed: int,
    *,
    poison: int,
    pause: tuple[float, float],
    frozen_s: float = 20.0,
    paused_s: float = 10.0,
) -> dict[str, Any]:
    """One whole run; returns the record that is printed."""
    report, chance = Report(), random.Random(seed)
    with (
        own_pool(workers) as pool,
        Breaker(pool, seed, report.hits, report.faults, frozen_s=frozen_s, paused_s=paused_s) as breaker,
    ):
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
        stats, set_aside = client.stats(), breaker.set_aside()
        if set_aside != report.faults["spoil a record"]:
            report.wrong.append(f"{report.faults['spoil a record']} records were spoilt, {set_aside} set aside")
        counted = judge(report, client, breaker)
        client.close()
        terminal = sum(count for name, count in stats.states.items() if State(name).terminal)
        if not 0 <= terminal - len(report.accepted) <= set_aside:  # a record may be spoilt after its job has ended
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
    rows.append(("attempts charged as lost, each on a worker that was hit", record["charged"]))
    rows += [
        ("jobs that lost three workers to faults, and failed for it", record["lost_thrice"]),
        ("lost, told twice, wrongly charged or wrong", len(record["wrong"])),
        ("seconds in all", record["seconds"]),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    """Run it, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=60)
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
