"""The service against the least that its parts can do, side by side on one machine and one Redis.

    python benchmarks/service.py [--rounds 200] [--json benchmarks/results/service.json] [--only scaling]

Round trips and submissions of a job that does nothing, against a FastAPI endpoint that publishes such a task and
against Celery alone; uploads of 32 MB against a uvicorn that throws them away; status polls while 200 clients wait;
jobs a second with 1 to 32 worker processes on a job that sleeps, and with 1 and 2 on one that computes.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from own_pool import ROOT, OwnPool, own_pool, until
from stand_in import NOTHING, SLEEP

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.solve import solve
from solver_service.pool.children import Child
from trainer.pool.client import SolverClient

MEGABYTE = 1_000_000
OCTETS = {"content-type": "application/octet-stream"}
Row = dict[str, Any]


def tiny(part: str | None, *, samples: int = 8, seed: int = 0, **note: Any) -> Snapshot:
    """A random classifier; `part` is what a stand-in worker does with it."""
    rng = np.random.default_rng(seed)
    return Snapshot(
        task="classification",
        inputs=rng.normal(size=(samples, 4)).astype(np.float32),
        targets=rng.integers(0, 3, samples),
        weight=rng.normal(size=(3, 4)).astype(np.float32),
        bias=np.zeros(3, np.float32),
        note={"benchmark": part, **note} if part else {},
    )


def milliseconds(call: Callable[[], object], rounds: int) -> list[float]:
    """Time a call so many times, after a tenth as many to warm up."""
    for _ in range(max(3, rounds // 10)):
        call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def per_second(call: Callable[[], object], count: int, threads: int = 4) -> float:
    """How often a second a call is done by some clients at once."""
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for future in [pool.submit(call) for _ in range(count)]:
            future.result()
        return count / (time.perf_counter() - began)


def rates_alternately(calls: dict[str, Callable[[], object]], count: int, parts: int = 5) -> dict[str, float]:
    """Medians of how often a second several calls are done, measured in turns."""
    found = [{name: per_second(call, count // parts) for name, call in calls.items()} for _ in range(parts)]
    return {name: statistics.median(rates[name] for rates in found) for name in calls}


def beside(pool: OwnPool, part: str) -> tuple[str, socket.socket]:
    """Start one of `minimal.py`'s servers beside the pool."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    command = [sys.executable, str(ROOT / "benchmarks" / "minimal.py"), part, str(listener.fileno())]
    pool.add(Child(part, command, (listener.fileno(),)))
    return f"http://127.0.0.1:{listener.getsockname()[1]}", listener


def alternately(calls: dict[str, Callable[[], object]], rounds: int, parts: int = 5) -> dict[str, float]:
    """Medians in milliseconds of several calls, measured in turns, so that a busy moment hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(parts):
        for name, call in calls.items():
            taken[name] += milliseconds(call, rounds // parts)
    return {name: statistics.median(found) for name, found in taken.items()}


def round_trips(rounds: int) -> list[Row]:
    """A job that does nothing, from its submission to its answer, and submissions alone."""
    with own_pool(1) as pool:
        base, listener = beside(pool, "least")
        os.environ["GDSOLVER_REDIS_URL"] = pool.redis_url
        pool.add(Child("minimal-worker", [sys.executable, str(ROOT / "benchmarks" / "minimal.py"), "worker"]))
        from minimal import celery_app  # noqa: PLC0415 (reads where Redis is)

        bare = celery_app()
        with listener, httpx.Client(base_url=pool.url) as ours, httpx.Client(base_url=base) as least:
            found = ours.post("/v1/snapshots", content=tiny(NOTHING).to_bytes(), headers=OCTETS)
            spec = {"objective": "ramp", "radius": 0.1, "snapshot": found.json()["id"]}

            def submit() -> str:
                response = ours.post("/v1/jobs", json=spec)
                assert response.status_code == 202, response.text
                return str(response.json()["id"])

            def once() -> None:
                response = ours.post("/v1/jobs", json=spec, headers={"Prefer": "wait=30"})
                assert response.json()["state"] == "succeeded", response.text

            def twice() -> None:
                state = ours.get(f"/v1/jobs/{submit()}", params={"wait": 30}).json()["state"]
                assert state == "succeeded", state

            calls: dict[str, Callable[[], object]] = {
                "ours": once,
                "ours, in two requests": twice,
                "least": lambda: least.post("/run", json=spec).raise_for_status(),
                "bare": lambda: bare.send_task("nothing", args=["x"]).get(timeout=30),
            }
            bare.send_task("nothing", args=["x"]).get(timeout=60)
            trip = alternately(calls, rounds)
            workers = ("worker-1", "minimal-worker")
            for name in workers:  # else a submission's rate would be that of a job
                pool.signal(name, signal.SIGSTOP)
            sent: dict[str, Callable[[], object]] = {
                "ours": submit,
                "least": lambda: least.post("/jobs", json=spec).raise_for_status(),
                "bare": lambda: bare.send_task("nothing", args=["x"]),
            }
            rate = rates_alternately(sent, 2 * rounds)
            for name in workers:
                pool.signal(name, signal.SIGCONT)
            with SolverClient(pool.url) as client:
                until(lambda: client.stats().queued + client.stats().running == 0, 120, "the queue did not empty")
    return [
        row("round trip, ms, against the least FastAPI endpoint", trip["ours"], trip["least"], most=1.5),
        row("round trip, ms, against Celery alone", trip["ours"], trip["bare"], most=3.0),
        row(
            "round trip in two requests (submit, wait), ms, against the least endpoint's one",
            trip["ours, in two requests"],
            trip["least"],
        ),
        row("submissions a second, against the least FastAPI endpoint", rate["ours"], rate["least"], least=1 / 1.5),
        row("submissions a second, against Celery alone", rate["ours"], rate["bare"], least=1 / 3),
    ]


def uploads(count: int = 11) -> list[Row]:
    """32 MB of snapshot, checked and stored, against a server that throws them away.

    A second apart, as stalls come, and without a pause, where the disk under Redis' log sets the pace.
    """
    rng = np.random.default_rng(0)
    width = 400
    samples = 32 * MEGABYTE // (4 * width)
    snapshot = Snapshot(
        task="classification",
        inputs=rng.normal(size=(samples, width)).astype(np.float32),
        targets=rng.integers(0, 3, samples),
        weight=rng.normal(size=(3, width)).astype(np.float32),
    )
    with own_pool(1) as pool:
        base, listener = beside(pool, "sink")
        urls = (pool.url + "/v1/snapshots", base)

        def rates(pause_s: float) -> list[float]:
            found: list[list[float]] = [[], []]
            for _ in range(count + 1):
                snapshot.inputs[0, 0] = rng.normal()
                body = snapshot.to_bytes()
                for url, those in zip(urls, found, strict=True):
                    time.sleep(pause_s)
                    began = time.perf_counter()
                    httpx.post(url, content=body, headers=OCTETS, timeout=60).raise_for_status()
                    those.append(len(body) / MEGABYTE / (time.perf_counter() - began))
            return [statistics.median(those[1:]) for those in found]

        with listener:
            apart, together = rates(1.0), rates(0.0)
    return [
        row("upload of 32 MB, MB/s, against a uvicorn sink", *apart, least=0.5),
        row("uploads of 32 MB one after another, MB/s, against a uvicorn sink", *together),
    ]


def polls(rounds: int, waiters: int = 200) -> list[Row]:
    """Asking for a job's record while many clients wait for theirs."""
    with own_pool(1) as pool, SolverClient(pool.url) as client, httpx.Client(base_url=pool.url) as http:
        pool.signal("worker-1", signal.SIGSTOP)
        spec = JobSpec(objective="ramp", radius=0.1, snapshot=client.upload(tiny(NOTHING)))
        jobs = [client.submit(spec).id for _ in range(waiters)]

        def poll() -> None:
            http.get(f"/v1/jobs/{jobs[0]}").raise_for_status()

        idle = statistics.median(milliseconds(poll, rounds))
        waiting = threading.Thread(target=lambda: asyncio.run(wait_all(pool.url, jobs)))
        waiting.start()
        time.sleep(3.0)
        busy = statistics.median(milliseconds(poll, rounds))
        pool.signal("worker-1", signal.SIGCONT)
        waiting.join()
    return [row(f"status poll, ms, while {waiters} clients wait, against none", busy, idle, most=5.0)]


async def wait_all(url: str, jobs: list[str]) -> None:
    """One long poll per job, all at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=90, limits=limits) as client:
        answers = await asyncio.gather(*(client.get(f"/v1/jobs/{job}", params={"wait": 60}) for job in jobs))
    assert all(answer.json()["state"] == "succeeded" for answer in answers)


def cancels(count: int = 10) -> list[Row]:
    """From a cancellation to the job's end, with its incumbent as the result."""
    rng = np.random.default_rng(0)
    snapshot = Snapshot(
        task="classification",
        inputs=rng.normal(size=(1500, 6)).astype(np.float32),
        targets=rng.integers(0, 6, 1500),
        weight=rng.normal(size=(6, 6)).astype(np.float32),
    )
    taken = []
    with own_pool(1) as pool, SolverClient(pool.url) as client:
        for number in range(count):
            spec = JobSpec.model_validate({"objective": "zero_one", "radius": 0.3, "limits": {"time_s": 300}})
            job = client.solve(snapshot, spec).id
            next(event for event in client.events(job) if event.kind == "incumbent")
            time.sleep(0.5 * number)  # at other moments of the solve
            began = time.monotonic()
            client.cancel(job)
            status = client.wait(job, timeout=60)
            taken.append(time.monotonic() - began)
            assert status.state == "cancelled", status
            assert status.result is not None
            assert status.result.improved
    return [row(f"from a cancel to the job's end, s, worst of {count}, against 1 s", max(taken), 1.0, most=1.0)]


def rate_of(snapshot: Snapshot, spec: JobSpec, slots: int, jobs: int) -> float:
    """Jobs a second, from the first one's start to the last one's end, when all wait already."""
    with own_pool(1) as pool, SolverClient(pool.url) as client:
        pool.signal("worker-1", signal.SIGTERM)
        pool.children["worker-1"].end(time.monotonic() + 20)
        spec = spec.model_copy(update={"snapshot": client.upload(snapshot)})
        names = [client.submit(spec).id for _ in range(jobs)]
        del pool.children["worker-1"]
        pool.add_worker(2, slots=slots)
        records = [client.wait(name, timeout=600) for name in names]
    assert all(record.state == "succeeded" for record in records)
    began = min(record.started for record in records if record.started)
    ended = max(record.finished for record in records if record.finished)
    return jobs / (ended - began).total_seconds()


def scaling(most: int = 32, each: int = 10) -> list[Row]:
    """Jobs a second with more and more worker processes."""
    rows, spec = [], JobSpec(objective="ramp", radius=0.1)
    one = rate_of(tiny(SLEEP, seconds=1.0), spec, 1, each)
    for slots in (2, 4, 8, 16, 32):
        if slots <= most:
            found = rate_of(tiny(SLEEP, seconds=1.0), spec, slots, each * slots)
            what = f"jobs of 1 s sleep a second, {slots} processes, against {slots} times one"
            rows.append(row(what, found, slots * one, least=0.9))
    computing = JobSpec.model_validate({"objective": "zero_one", "radius": 0.3, "limits": {"time_s": 120, "nodes": 30}})
    snapshot = tiny(None, samples=150, seed=1)
    alone, both = (rate_without_us(snapshot, computing, processes, 8) for processes in (1, 2))
    single, double = (rate_of(snapshot, computing, slots, 8) for slots in (1, 2))
    rows.append(row("the same solves a second without the service, 2 processes, against 1", both, alone))
    rows.append(row("solved jobs a second, 2 processes on two cores, against 1", double, single, least=1.8))
    return rows


def rate_without_us(snapshot: Snapshot, spec: JobSpec, processes: int, jobs: int) -> float:
    """Solves a second in plain processes: what the machine itself gives to two of them."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(sorted, [[]] * 4 * processes))  # all of them are there
        began = time.perf_counter()
        list(pool.map(solve, [snapshot] * jobs, [spec] * jobs))
        return jobs / (time.perf_counter() - began)


def row(what: str, ours: float, other: float, *, most: float | None = None, least: float | None = None) -> Row:
    """One comparison, with what was asked of it."""
    ratio = ours / other
    met = (most is None or ratio <= most) and (least is None or ratio >= least)
    target = f"at most {most:.3g}" if most is not None else "-" if least is None else f"at least {least:.2g}"
    return {"what": what, "ours": ours, "other": other, "ratio": ratio, "target": target, "met": met}


def table(rows: list[Row]) -> str:
    """The comparisons as Markdown."""
    lines = ["| | here | against | ratio | target | |", "|---|---|---|---|---|---|"]
    for one in rows:
        figures = f"{one['ours']:.3g} | {one['other']:.3g} | {one['ratio']:.2f} | {one['target']}"
        verdict = "" if one["target"] == "-" else "met" if one["met"] else "missed"
        lines.append(f"| {one['what']} | {figures} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    """Measure everything, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--most", type=int, default=32, help="worker processes")
    parser.add_argument("--only", choices=["round-trips", "uploads", "polls", "cancels", "scaling"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], list[Row]]] = {
        "round-trips": lambda: round_trips(arguments.rounds),
        "uploads": uploads,
        "polls": lambda: polls(arguments.rounds),
        "cancels": cancels,
        "scaling": lambda: scaling(arguments.most),
    }
    rows = [one for name, part in parts.items() if arguments.only in (None, name) for one in part()]
    print(table(rows))
    if arguments.json:
        about = {"cores": os.cpu_count(), "python": platform.python_version(), "rounds": arguments.rounds}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
        arguments.json.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
