"""Submits every snapshot of a folder to a running pool with curl, and recomputes each answer without GDSolver's code.

    python benchmarks/check_snapshots.py FOLDER --gateway http://127.0.0.1:8000 [--time 10] [--json FILE]

A snapshot is submitted with the objective and radius of its note. Prints one line per file and exits with 1 if an
answer is worse than its start, outside its box, or not what the job reported. Hidden-layer snapshots, which the
service does not solve yet, must be refused with 422.
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


def recompute(name: str, tensors: dict[str, np.ndarray], weight: np.ndarray, bias: np.ndarray) -> float:
    """The objective of a final layer from its formula: one sample at a time, float64."""
    total = 0.0
    for n, row in enumerate(tensors["inputs"]):
        scores = [
            float(np.dot(row.astype(float), w.astype(float))) + float(b) for w, b in zip(weight, bias, strict=True)
        ]
        if "offset" in tensors:
            scores = [s + float(o) for s, o in zip(scores, tensors["offset"][n], strict=True)]
        target = tensors["targets"][n]
        if name == "mae":
            total += sum(abs(s - float(y)) for s, y in zip(scores, target, strict=True)) / len(scores)
            continue
        margin = scores[target] - max(s for k, s in enumerate(scores) if k != target)
        total += float(margin < 1e-4) if name == "zero_one" else min(1.0, max(0.0, 1.0 - margin))
    return total / len(tensors["inputs"]) if name == "mae" else total


def check(path: Path, gateway: str, time_s: float) -> dict[str, Any]:
    """Submit one snapshot, wait, download, recompute; returns a row with `ok`."""
    data = path.read_bytes()
    about = description(data)
    note = about["note"]
    if not {"objective", "radius"} <= note.keys():
        sys.exit(f"{path}: its note names no objective and radius to submit it with")
    spec = json.dumps({"objective": note["objective"], "radius": note["radius"], "limits": {"time_s": time_s}})
    row: dict[str, Any] = {"file": path.stem, "objective": note["objective"]}
    job = json.loads(curl("-F", f"spec={spec}", "-F", f"snapshot=@{path}", f"{gateway}/v1/solve"))
    if about["tail"] or about["activation"] != "identity":
        return {**row, "status": f"{job.get('status')} {job.get('code')}", "ok": job.get("status") == 422}
    while job["state"] in ("queued", "running"):
        job = json.loads(curl(f"{gateway}/v1/jobs/{job['id']}?wait=60"))
    if job["state"] != "succeeded":
        return {**row, "status": job["state"], "error": job["error"], "ok": False}
    found, sent = load(curl(f"{gateway}/v1/jobs/{job['id']}/result")), load(data)
    result = job["result"]
    value = recompute(note["objective"], sent, found["weight"], found["bias"])
    final, start = result["objective"]["final"], result["objective"]["start"]
    outside = max(float(np.abs(found[k].astype(float) - sent[k]).max()) - note["radius"] for k in ("weight", "bias"))
    agrees = value == final if note["objective"] in COUNTS else abs(value - final) <= 1e-6 * abs(final)
    return {
        **row,
        **{name: result["objective"][name] for name in ("start", "final", "bound", "gap")},
        "recomputed": value,
        "outside": outside,
        "status": result["status"],
        "seconds": result["timings"]["total_s"],
        "ok": agrees and final <= start and outside <= 1e-6,
    }


def main() -> None:
    """Check every file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--time", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print("| snapshot | objective | start | final | bound | status | seconds | recomputed |")
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(arguments.folder.glob("*.safetensors")):
        row = check(path, arguments.gateway, arguments.time)
        rows.append(row)
        numbers = [f"{row[name]:.6g}" if name in row else "" for name in ("start", "final", "bound")]
        seconds = f"{row['seconds']:.2f}" if "seconds" in row else ""
        verdict = "agrees" if row["ok"] else "DIFFERS"
        print(
            "|", " | ".join([row["file"], row["objective"], *numbers, row["status"], seconds, verdict]), "|", flush=True
        )
    if arguments.json:
        report = {"cores": os.cpu_count(), "time_s": arguments.time, "snapshots": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()
