"""What jobs and snapshots take of Redis' memory: a queued job, an ended one, and a snapshot beyond its bytes.

    python benchmarks/sizing.py [--jobs 5000] [--json benchmarks/results/sizing.json]

Jobs are stored as the service does, from twenty runs, with one incumbent and a result each; Redis is asked for its
memory before and after.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from own_pool import OwnPool, workless_pool
from stand_in import at_once

from benchmarks.service import tiny
from shared.contracts import JobSpec, Progress
from shared.snapshot import Snapshot
from solver_service import weights
from solver_service.milp.core.moved import Moved
from solver_service.rules import jobs
from solver_service.rules.owners import KEYLESS_OWNER
from solver_service.settings import Settings
from solver_service.store import Store

RUNS = 20
SNAPSHOTS = ((1000, 64, 10), (5000, 64, 10), (20_000, 64, 10), (20_000, 512, 10))
"""Samples, inputs and units of the snapshots that are weighed."""
Row = dict[str, Any]


def memory_of(store: Store) -> int:
    """Bytes that Redis holds for data."""
    return int(store.redis.info("memory")["used_memory_dataset"])


def jobs_weighed(pool: OwnPool, count: int) -> Row:
    """Bytes a job, queued and ended."""
    store = Store.open(Settings(redis_url=pool.redis_url))
    snapshot = tiny(None)
    name = "0" * 64
    store.blobs.put_snapshot(KEYLESS_OWNER, name, snapshot.to_bytes())
    spec = JobSpec(snapshot=name, objective="zero_one", radius=0.1, limits={"time_s": 60})
    before = memory_of(store)
    made = []
    for number in range(count):
        named = spec.model_copy(update={"run": f"run-{number % RUNS}", "step": number})
        job = jobs.create(named, snapshot=name, owner=KEYLESS_OWNER, now=store.jobs.now())
        made.append(store.jobs.add(job)[0].id)
    queued = memory_of(store)
    result = at_once(spec)
    data = weights.encode(Moved(snapshot.weight, snapshot.bias), result)
    for job_id in made:
        store.jobs.update(job_id, partial(jobs.claim, worker="stand-in", now=store.jobs.now()))
        step = Progress(objective=12.0, bound=3.0, gap=0.75, t_s=0.5, nodes=1)
        store.jobs.update(job_id, partial(jobs.report, progress=step, attempt=1))
        done = partial(jobs.finish, result=result, attempt=1, now=store.jobs.now())
        store.jobs.update(job_id, done, result=data)
    ended = memory_of(store)
    return {"jobs": count, "queued_bytes": (queued - before) / count, "ended_bytes": (ended - before) / count}


def snapshot_weighed(pool: OwnPool, samples: int, inputs: int, units: int) -> Row:
    """A snapshot's bytes, and Redis' for it."""
    store = Store.open(Settings(redis_url=pool.redis_url))
    rng = np.random.default_rng(samples)
    data = Snapshot(
        task="classification",
        inputs=rng.normal(size=(samples, inputs)).astype(np.float32),
        targets=rng.integers(units, size=samples),
        weight=np.zeros((units, inputs), dtype=np.float32),
        bias=np.zeros(units, dtype=np.float32),
    ).to_bytes()
    before = memory_of(store)
    store.blobs.put_snapshot(KEYLESS_OWNER, f"{samples}-{inputs}", data)
    shape = {"samples": samples, "inputs": inputs, "units": units}
    return {**shape, "bytes": len(data), "redis_bytes": memory_of(store) - before}


def main() -> None:
    """Weigh all, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with workless_pool() as pool:
        found = {
            "jobs": jobs_weighed(pool, options.jobs),
            "snapshots": [snapshot_weighed(pool, *it) for it in SNAPSHOTS],
        }
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
