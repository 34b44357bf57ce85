"""Sends a pool what no client should: generated requests, mutated snapshots and specs; it must refuse, never break.

    python benchmarks/fuzz.py --cases 5000 --seed 1 [--schemathesis COMMAND] [--json FILE]

Thousands of snapshots and specs are changed at random: bytes, headers, shapes, values, fields. What the gateway accepts
is solved, in a fraction of a second each. `--schemathesis` names that program (`pip install schemathesis`, in an
environment of its own), which then makes some 3,000 requests out of the OpenAPI document. Fails on any status of 500 or
more, on an answer that takes over 5 s, on a job that ends in `solver_error` or `worker_lost`, and on memory that grows.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from own_pool import OwnPool, own_pool

from shared.contracts import State
from shared.snapshot import Snapshot
from trainer.pool.client import SolverClient

SLOWEST_S = 5.0
GROWTH = 1.5
"""Memory at the end may be so many times that after the first tenth."""
NUMBERS: list[Any] = [0, -1, 1, 1e-30, 1e-9, 0.5, 3, 1e9, 1e38, 1e308, 2**63, -0.0, True, None, "1", "x" * 5000, [], {}]
OBJECTIVES = ["zero_one", "ramp", "hinge", "mae", "mse", "max_error", "outliers", "accuracy", "", None]
CONSTRAINTS = ["min_accuracy", "recall_floor", "group_rate_gap", "nonnegative", "monotone", "max_nonzero", "grid",
               "movement_cost", "nothing"]  # fmt: skip
FIELDS = ["snapshot", "objective", "margin", "tolerance", "radius", "bias_radius", "tail_radius", "constraints",
          "limits", "solver", "run", "step", "supersede", "ttl_s", "priority", "tags", "unknown"]  # fmt: skip


def base(rng: np.random.Generator) -> Snapshot:
    """A valid small snapshot of either task."""
    n, d, h = int(rng.integers(1, 30)), int(rng.integers(1, 5)), int(rng.integers(1, 5))
    classes = bool(rng.random() < 0.6) and h > 1
    scale = float(rng.choice([1e-30, 1e-3, 1.0, 1.0, 1.0, 1e6, 1e30]))
    with np.errstate(over="ignore"):
        inputs = (scale * rng.normal(size=(n, d))).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.2] = 0
    sample_weight = rng.choice([0, 1, 2, 1e-9, 1e9], n).astype(np.float32)
    sample_weight[0] = 1  # not all may be 0
    return Snapshot(
        task="classification" if classes else "regression",
        inputs=inputs,
        targets=rng.integers(0, h, n) if classes else rng.normal(size=(n, h)).astype(np.float32),
        weight=rng.normal(size=(h, d)).astype(np.float32),
        bias=rng.normal(size=h).astype(np.float32) if rng.random() < 0.7 else None,
        sample_weight=sample_weight if rng.random() < 0.3 else None,
    )


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A snapshot's bytes, changed somewhere, or not at all."""
    kind = chance.randrange(8)
    found = bytearray(data)
    if kind == 0:
        return bytes(found[: chance.randrange(len(found))])
    if kind == 1:
        for _ in range(chance.randrange(1, 20)):
            found[chance.randrange(len(found))] = chance.randrange(256)
    elif kind == 2:
        found[:8] = chance.choice([0, 1, 2**16, 2**40, 2**63, len(data)]).to_bytes(8, "little")
    elif kind in (3, 4):
        return header_changed(data, chance)
    return bytes(found)


def header_changed(data: bytes, chance: random.Random) -> bytes:
    """A snapshot whose header says something else than before."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = chance.choice(list(header))
    if name == "__metadata__":
        about = json.loads(header[name]["snapshot"])
        about[chance.choice([*about, "more"])] = chance.choice([*NUMBERS, "relu", ["relu"], "regression"])
        header[name]["snapshot"] = json.dumps(about)
    else:
        part = chance.choice(["dtype", "shape", "data_offsets"])
        shapes: list[Any] = [[], [0], [1, -1], [2**40, 2**40], [3, 3, 3], "x", None, [1.5]]
        choices = {"dtype": ["F64", "BF16", "I64", "BOOL", "F16", "", 7], "shape": shapes, "data_offsets": shapes}
        header[name][part] = chance.choice(choices[part])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def spec(task: str, chance: random.Random) -> Any:
    """A spec that fits its snapshot's task, with up to three fields changed."""
    fits = OBJECTIVES[:3] if task == "classification" else OBJECTIVES[3:7]
    found: dict[str, Any] = {"objective": chance.choice(fits), "radius": chance.choice([0.1, 1.0])}
    found["limits"] = {"time_s": 0.05}
    if found["objective"] == "outliers":
        found["tolerance"] = 0.3
    for _ in range(chance.randrange(4) if chance.random() < 0.6 else 0):
        field = chance.choice(FIELDS)
        found[field] = chance.choice(NUMBERS)
        if field == "objective":
            found[field] = chance.choice(OBJECTIVES)
        elif field == "constraints":
            kinds = [chance.choice(CONSTRAINTS) for _ in range(chance.randrange(4))]
            found[field] = [{"type": kind, "value": chance.choice(NUMBERS[:10])} for kind in kinds]
        elif field == "limits":
            found[field] = {"time_s": 0.05, chance.choice(["memory_mb", "nodes", "gap", "x"]): chance.choice(NUMBERS)}
        elif field == "solver":
            options = {"backend": ["scip", "highs", "gurobi"], "formulation": ["compact", "reference"], "seed": NUMBERS}
            name = chance.choice(list(options))
            found[field] = {name: chance.choice(options[name])}
    return found


def memory(pool: OwnPool) -> dict[str, float]:
    """Resident megabytes of the gateway and of the worker with its child."""
    found = {}
    for name in ("gateway", "worker-1"):
        process = psutil.Process(pool.pid(name))
        whole = [process, *process.children(recursive=True)]
        found[name] = round(sum(one.memory_info().rss for one in whole) / 1e6, 1)
    return found


def send(pool: OwnPool, cases: int, seed: int) -> dict[str, Any]:
    """Send mutated snapshots and specs, and look at what became of them."""
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    jobs: list[str] = []
    slowest, early = 0.0, memory(pool)
    with httpx.Client(base_url=pool.url, timeout=2 * SLOWEST_S) as http:
        for number in range(cases):
            snapshot = base(rng)
            data = snapshot.to_bytes()
            data = mutated(data, chance) if chance.random() < 0.5 else data
            text = json.dumps(spec(snapshot.task, chance))
            if chance.random() < 0.05:
                text = text[: chance.randrange(len(text))]
            began = time.monotonic()
            try:
                response = http.post("/v1/solve", data={"spec": text}, files={"snapshot": ("s", data)})
            except httpx.HTTPError as error:
                wrong.append(f"case {number}: {error!r}")
                continue
            slowest = max(slowest, time.monotonic() - began)
            statuses[response.status_code] += 1
            if response.status_code >= 500:
                wrong.append(f"case {number}: {response.status_code} for {text[:300]}")
            if response.status_code == 202:
                jobs.append(response.json()["id"])
            if number == cases // 10:
                early = memory(pool)
    ended: Counter[str] = Counter()
    with SolverClient(pool.url) as client:
        for job in jobs:
            status = client.wait(job, timeout=600)
            ended[status.state.value] += 1
            if status.state is State.FAILED:
                wrong.append(f"{job}: {status.error}: {status.spec.model_dump_json(exclude_defaults=True)[:500]}")
    late = memory(pool)
    wrong += [
        f"{name} grew from {early[name]} to {late[name]} MB" for name in late if late[name] > GROWTH * early[name]
    ]
    if slowest > SLOWEST_S:
        wrong.append(f"an answer took {slowest:.1f} s")
    return {
        "cases": cases, "seed": seed, "statuses": {str(k): v for k, v in sorted(statuses.items())},
        "solved": dict(ended), "slowest_s": round(slowest, 2), "memory_mb": {"early": early, "late": late},
        "wrong": wrong,
    }  # fmt: skip


def generated(pool: OwnPool, command: str, seed: int) -> dict[str, Any]:
    """Let schemathesis make requests out of the OpenAPI document."""
    before = memory(pool)
    run = subprocess.run(
        [command, "run", f"{pool.url}/openapi.json", "--checks", "not_a_server_error", "--max-examples", "300",
         "--request-timeout", str(SLOWEST_S), "--seed", str(seed), "--continue-on-failure", "--no-color"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    return {
        "said": [line.strip() for line in lines if "generated" in line or "passed" in line or "failed" in line][-4:],
        "memory_mb": {"before": before, "after": memory(pool)},
        "wrong": lines[-80:] if run.returncode else [],
    }


def main() -> None:
    """Do both, print the record, fail if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with own_pool(1) as pool:
        record = {"mutated": send(pool, arguments.cases, arguments.seed)}
        if arguments.schemathesis:
            record["generated"] = generated(pool, arguments.schemathesis, arguments.seed)
        wrong = [text for part in record.values() for text in part["wrong"]]
        if wrong:
            sys.stderr.write((pool.folder / "pool.log").read_text(errors="replace")[-20000:])
    print(json.dumps(record, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
