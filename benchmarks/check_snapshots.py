"""Submits every snapshot of a folder to a running pool with curl, and recomputes each answer without GDSolver's code.

    python benchmarks/check_snapshots.py FOLDER --gateway http://127.0.0.1:8000 [--time 10] [--json FILE]

A snapshot is submitted as its note asks: objective, radii, margin, tolerance and constraints. One with a tail is sent
twice, with the tail fixed and with its last layer free by `tail_radius` (of the note, else 1.5). Prints a line per job,
and exits with 1 if an answer is worse than its start, outside its box, or not what the job reported. What constraints
ask for is not looked at here, and a job that has some may end above its start. `--hidden` leaves out files without a
tail.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from given import snapshots_in
from safetensors.numpy import load

COUNTS = ("zero_one", "outliers")
MEANS = ("mae", "mse")
RECOMPUTED = {"classification": ("zero_one", "ramp", "hinge"), "regression": (*MEANS, "outliers")}
"""The objectives whose formulas stand here, by the snapshot's task."""
ASKED = ("objective", "radius", "bias_radius", "margin", "tolerance", "constraints")
"""What of a note goes into the job."""
TAIL_RADIUS = 1.5
HEAD = """| snapshot | tail radius | objective | start | final | bound | status | seconds | within 1 % | recomputed |
|---|---|---|---|---|---|---|---|---|---|"""


def curl(*arguments: str) -> bytes:
    """Run curl and return the body, whatever the status."""
    key = os.environ.get("GDSOLVER_API_KEY")
    headers = ["-H", f"Authorization: Bearer {key}"] if key else []
    return subprocess.run(["curl", "-sS", *headers, *arguments], check=True, capture_output=True).stdout


def need_pool(gateway: str) -> None:
    """End the program in one line unless a pool answers."""
    try:
        curl("--max-time", "10", f"{gateway}/healthz")
    except FileNotFoundError:
        sys.exit("curl is needed, and is not installed")
    except subprocess.CalledProcessError as error:
        sys.exit(f"no pool answers at {gateway}: {error.stderr.decode().strip()}")


def description(data: bytes) -> dict[str, Any]:
    """Read a snapshot's JSON description from its safetensors header."""
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["snapshot"])
    return found


def activated(name: str, value: float) -> float:
    """An activation by its wire name, at one value."""
    if name == "hardtanh":
        return min(1.0, max(-1.0, value))
    if name == "identity" or value > 0:
        return value
    return value * float(name.partition(":")[2] or 0)


def layer(
    weight: np.ndarray, bias: np.ndarray | None, values: list[float], activation: str, offset: np.ndarray | None = None
) -> list[float]:
    """One layer's values for one sample, unit by unit in float64."""
    found = []
    for unit, row in enumerate(weight):
        before = float(np.dot(np.array(values, dtype=float), row.astype(float)))
        before += 0.0 if bias is None else float(bias[unit])
        before += 0.0 if offset is None else float(offset[unit])
        found.append(activated(activation, before))
    return found


def recompute(
    asked: dict[str, Any], about: dict[str, Any], tensors: dict[str, np.ndarray], moved: dict[str, np.ndarray]
) -> float:
    """The objective from its formula, through activation and tail: one sample at a time, float64."""
    now, total = tensors | moved, 0.0
    samples = len(tensors["inputs"])
    weights = [float(weight) for weight in tensors.get("sample_weight", np.ones(samples))]
    for n, row in enumerate(tensors["inputs"]):
        scores = layer(now["weight"], now.get("bias"), [float(x) for x in row], about["activation"], at(now, "", n))
        for index, activation in enumerate(about["tail"]):
            name = f"tail.{index}."
            scores = layer(now[f"{name}weight"], now.get(f"{name}bias"), scores, activation, at(now, name, n))
        total += weights[n] * cost(asked, scores, tensors["targets"][n])
    return total / sum(weights) if asked["objective"] in MEANS else total


def at(tensors: dict[str, np.ndarray], layer: str, sample: int) -> np.ndarray | None:
    """What is added to a layer's values for one sample, if the snapshot has an offset there."""
    return tensors[f"{layer}offset"][sample] if f"{layer}offset" in tensors else None


def cost(asked: dict[str, Any], scores: list[float], target: Any) -> float:
    """One sample's part of an objective in RECOMPUTED; the targets of one output may be [N] as well as [N, 1]."""
    name = asked["objective"]
    if name in RECOMPUTED["regression"]:
        errors = [abs(s - float(y)) for s, y in zip(scores, np.atleast_1d(target), strict=True)]
        if name == "outliers":
            return float(max(errors) > asked["tolerance"])
        return sum(error if name == "mae" else error * error for error in errors) / len(errors)
    margin: float = scores[target] - max(s for k, s in enumerate(scores) if k != target)
    if name == "zero_one":
        return float(margin < 1e-4)
    loss = max(0.0, 1.0 - margin / float(asked.get("margin", 1.0)))
    return min(1.0, loss) if name == "ramp" else loss


def outside(sent: dict[str, np.ndarray], moved: dict[str, np.ndarray], asked: dict[str, Any]) -> float:
    """How far the furthest weight is outside its box; negative inside."""
    radii: dict[str, float] = {"weight": asked["radius"], "bias": asked.get("bias_radius", asked["radius"])}
    tail_radius = float(asked.get("tail_radius", 0.0))
    return max(
        float(np.abs(values.astype(float) - sent[name]).max()) - radii.get(name, tail_radius)
        for name, values in moved.items()
    )


def check(path: Path, gateway: str, time_s: float, tail_radius: float = 0.0) -> dict[str, Any]:
    """Submit one snapshot, wait, download, recompute; returns a row with `ok`, also of a job that came to nothing."""
    row: dict[str, Any] = {"file": path.stem, "objective": "", "tail_radius": tail_radius, "ok": False}
    try:
        data = path.read_bytes()
        asked = {**asked_of(description(data)), "limits": {"time_s": time_s}}
        asked |= {"tail_radius": tail_radius} if tail_radius else {}
        row["objective"] = asked["objective"]
        return {**row, **answered(path, data, asked, gateway)}
    except Exception as error:  # the other rows are worth having
        said = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else str(error)
        return {**row, "status": f"{type(error).__name__}: {' '.join(said.split())}", "ok": False}


def asked_of(about: dict[str, Any]) -> dict[str, Any]:
    """What a snapshot's note asks a job for."""
    return {name: about["note"][name] for name in ASKED if about["note"].get(name) is not None}


def answered(path: Path, data: bytes, asked: dict[str, Any], gateway: str) -> dict[str, Any]:
    """What became of a job, its answer recomputed."""
    job = json.loads(curl("-F", f"spec={json.dumps(asked)}", "-F", f"snapshot=@{path}", f"{gateway}/v1/solve"))
    if "id" not in job:
        return {"status": f"{job.get('status')} {job.get('code')}"}
    while job["state"] in ("queued", "running"):
        job = json.loads(curl(f"{gateway}/v1/jobs/{job['id']}?wait=60"))
    if job["state"] != "succeeded":
        return {"status": job["state"], "error": job["error"]}
    found, sent = load(curl(f"{gateway}/v1/jobs/{job['id']}/result")), load(data)
    result = job["result"]
    value, beyond = recompute(asked, description(data), sent, found), outside(sent, found, asked)
    final, start = result["objective"]["final"], result["objective"]["start"]
    agrees = value == final if asked["objective"] in COUNTS else abs(value - final) <= 1e-6 * abs(final) + 1e-12
    no_worse = final <= start or bool(asked.get("constraints"))
    return {
        **{name: result["objective"][name] for name in ("start", "final", "bound", "gap")},
        "recomputed": value,
        "outside": beyond,
        "constraints": [asked["type"] for asked in asked.get("constraints", [])],
        "status": result["status"],
        "seconds": result["timings"]["total_s"],
        "within_1_percent_s": soon(result),
        "ok": agrees and no_worse and beyond <= 1e-6,
    }


def soon(result: dict[str, Any]) -> float | None:
    """Seconds after which the incumbent was within 1 % of what the job gained in the end."""
    start, final = result["objective"]["start"], result["objective"]["final"]
    near = final + 0.01 * (start - final)
    return next((found["t_s"] for found in result["incumbents"] if found["objective"] <= near), None)


def jobs_of(path: Path, *, hidden: bool = False) -> list[float]:
    """The tail radii to submit a file with, none for a file to be left out; ends the program at one that cannot be."""
    about = description(path.read_bytes())
    if hidden and not about["tail"]:
        return []
    if not {"objective", "radius"} <= about["note"].keys():
        sys.exit(f"{path}: its note names no objective and radius to submit it with")
    name, formulas = about["note"]["objective"], RECOMPUTED.get(about["task"], ())
    if name not in formulas:
        there = f"only {', '.join(formulas)} are" if formulas else "nor is any other"
        sys.exit(f"{path}: {name} of a {about['task']} snapshot is not recomputed here, {there}; leave the file out")
    if about["tail"]:
        return [0.0, float(about["note"].get("tail_radius", TAIL_RADIUS))]
    return [0.0]


def main() -> None:
    """Check every file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--time", type=float, default=10.0)
    parser.add_argument("--hidden", action="store_true", help="only snapshots with a tail")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    paths = snapshots_in(arguments.folder)
    jobs = [(path, radius) for path in paths for radius in jobs_of(path, hidden=arguments.hidden)]
    if not jobs:
        sys.exit(f"no snapshot in {arguments.folder} has a tail")
    need_pool(arguments.gateway)
    rows = []
    print(HEAD)
    for path, tail_radius in jobs:
        rows.append(check(path, arguments.gateway, arguments.time, tail_radius))
        print(line(rows[-1]), flush=True)
    if arguments.json:
        report = {"cores": os.cpu_count(), "time_s": arguments.time, "snapshots": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    numbers = [f"{row[name]:.6g}" if name in row else "" for name in ("start", "final", "bound")]
    seconds = [f"{row[name]:.2f}" if row.get(name) is not None else "" for name in ("seconds", "within_1_percent_s")]
    verdict = "agrees" if row["ok"] else "DIFFERS"
    first = [row["file"], f"{row['tail_radius']:g}", row["objective"]]
    return f"| {' | '.join([*first, *numbers, row['status'], *seconds, verdict])} |"


if __name__ == "__main__":
    main()
