"""Submits every snapshot of a folder to a running pool with curl, and recomputes each answer without GDSolver's code.

    python benchmarks/check_snapshots.py FOLDER --gateway http://127.0.0.1:8000 [--time 10] [--json FILE]

A snapshot is submitted with the objective and radius of its note; one with a tail twice, with the tail fixed and with
its last layer free by `tail_radius` (of the note, else 1.5). Prints one line per job and exits with 1 if an answer is
worse than its start, outside its box, or not what the job reported. `--hidden` leaves out the files without a tail.
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
from safetensors.numpy import load

COUNTS = ("zero_one", "outliers")
TAIL_RADIUS = 1.5


def curl(*arguments: str) -> bytes:
    """Run curl and return the body, whatever the status."""
    key = os.environ.get("GDSOLVER_API_KEY")
    headers = ["-H", f"Authorization: Bearer {key}"] if key else []
    return subprocess.run(["curl", "-sS", *headers, *arguments], check=True, capture_output=True).stdout


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


def recompute(name: str, about: dict[str, Any], tensors: dict[str, np.ndarray], moved: dict[str, np.ndarray]) -> float:
    """The objective from its formula, through activation and tail: one sample at a time, float64."""
    now, total = tensors | moved, 0.0
    for n, row in enumerate(tensors["inputs"]):
        offset = tensors["offset"][n] if "offset" in tensors else None
        scores = layer(now["weight"], now.get("bias"), [float(x) for x in row], about["activation"], offset)
        for index, activation in enumerate(about["tail"]):
            scores = layer(now[f"tail.{index}.weight"], now.get(f"tail.{index}.bias"), scores, activation)
        target = tensors["targets"][n]
        if name == "mae":
            total += sum(abs(s - float(y)) for s, y in zip(scores, target, strict=True)) / len(scores)
            continue
        margin = scores[target] - max(s for k, s in enumerate(scores) if k != target)
        total += float(margin < 1e-4) if name == "zero_one" else min(1.0, max(0.0, 1.0 - margin))
    return total / len(tensors["inputs"]) if name == "mae" else total


def outside(sent: dict[str, np.ndarray], moved: dict[str, np.ndarray], radius: float, tail_radius: float) -> float:
    """How far the furthest weight is outside its box; negative inside."""
    return max(
        float(np.abs(values.astype(float) - sent[name]).max()) - (tail_radius if name.startswith("tail.") else radius)
        for name, values in moved.items()
    )


def check(path: Path, gateway: str, time_s: float, tail_radius: float = 0.0) -> dict[str, Any]:
    """Submit one snapshot, wait, download, recompute; returns a row with `ok`."""
    data = path.read_bytes()
    about = description(data)
    note = about["note"]
    asked = {"objective": note["objective"], "radius": note["radius"], "limits": {"time_s": time_s}}
    if tail_radius:
        asked["tail_radius"] = tail_radius
    row: dict[str, Any] = {"file": path.stem, "objective": note["objective"], "tail_radius": tail_radius}
    answer = curl("-F", f"spec={json.dumps(asked)}", "-F", f"snapshot=@{path}", f"{gateway}/v1/solve")
    job = json.loads(answer)
    if "id" not in job:
        return {**row, "status": f"{job.get('status')} {job.get('code')}", "ok": False}
    while job["state"] in ("queued", "running"):
        job = json.loads(curl(f"{gateway}/v1/jobs/{job['id']}?wait=60"))
    if job["state"] != "succeeded":
        return {**row, "status": job["state"], "error": job["error"], "ok": False}
    found, sent = load(curl(f"{gateway}/v1/jobs/{job['id']}/result")), load(data)
    result = job["result"]
    value = recompute(note["objective"], about, sent, found)
    final, start = result["objective"]["final"], result["objective"]["start"]
    beyond = outside(sent, found, note["radius"], tail_radius)
    agrees = value == final if note["objective"] in COUNTS else abs(value - final) <= 1e-6 * abs(final) + 1e-12
    return {
        **row,
        **{name: result["objective"][name] for name in ("start", "final", "bound", "gap")},
        "recomputed": value,
        "outside": beyond,
        "status": result["status"],
        "seconds": result["timings"]["total_s"],
        "within_1_percent_s": soon(result),
        "ok": agrees and final <= start and beyond <= 1e-6,
    }


def soon(result: dict[str, Any]) -> float | None:
    """Seconds after which the incumbent was within 1 % of what the job gained in the end."""
    start, final = result["objective"]["start"], result["objective"]["final"]
    near = final + 0.01 * (start - final)
    return next((found["t_s"] for found in result["incumbents"] if found["objective"] <= near), None)


def jobs_of(path: Path, *, hidden: bool) -> list[float]:
    """The tail radii to submit a file with; none for a file to be left out."""
    about = description(path.read_bytes())
    if not {"objective", "radius"} <= about["note"].keys():
        sys.exit(f"{path}: its note names no objective and radius to submit it with")
    if about["tail"]:
        return [0.0, float(about["note"].get("tail_radius", TAIL_RADIUS))]
    return [] if hidden else [0.0]


def main() -> None:
    """Check every file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--time", type=float, default=10.0)
    parser.add_argument("--hidden", action="store_true", help="only snapshots with a tail")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print("| snapshot | tail radius | objective | start | final | bound | status | seconds | within 1 % | recomputed |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in sorted(arguments.folder.glob("*.safetensors")):
        for tail_radius in jobs_of(path, hidden=arguments.hidden):
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
