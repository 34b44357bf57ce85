"""Four jobs as large as they come, each in a process of its own, with the memory that it took.

usage: python benchmarks/scale.py [--time 60] [--only NAME ...] [--json FILE]

20,000 samples in a 50-dimensional projection, and 500 samples in 4,096 dimensions, as ramps and as counts of errors;
both are random mixtures of ten classes with a stalled linear layer, in float32.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.given import chosen
from shared.snapshot import Snapshot

CLASSES = 10
CASES = {
    "20000x50 ramp": (20_000, 50, "ramp", 0.02),
    "20000x50 zero_one": (20_000, 50, "zero_one", 0.02),
    "500x4096 ramp": (500, 4096, "ramp", 0.001),
    "500x4096 zero_one": (500, 4096, "zero_one", 0.001),
}


def mixture(samples: int, width: int, objective: str, radius: float) -> Snapshot:
    """Ten overlapping clouds, and a layer that points at their centres, disturbed."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, width))
    classes = rng.integers(0, CLASSES, samples)
    inputs = np.maximum(0.0, centres[classes] + 1.5 * rng.normal(size=(samples, width)))
    disturbed = 1.5 if samples > width else 12.0  # many inputs tell the classes apart whatever the layer looks like
    weight = (centres + disturbed * rng.normal(size=centres.shape)) / width
    note = {"objective": objective, "radius": radius}
    zeros = np.zeros(CLASSES, dtype=np.float32)
    return Snapshot("classification", inputs.astype(np.float32), classes, weight.astype(np.float32), zeros, note=note)


def cells(record: dict[str, Any]) -> list[str]:
    """A row of the table, but for the notes."""
    first, last = record["points"][0], record["points"][-1]
    values = (record["start"], last[1], last[2], last[0], first[0])
    return [record["case"], *(f"{value:.5g}" for value in values), f"{record['peak_mb']:.0f}"]


def main() -> None:
    """Run all cases and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=float, default=60.0)
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names, records = chosen(list(CASES), arguments.only, str, "case"), []
    print("| case | start | final | bound | seconds | first improvement s | peak MB | notes |")
    print("|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder, "case.safetensors")
            path.write_bytes(mixture(*CASES[name]).to_bytes())
            command = [sys.executable, str(Path(__file__).with_name("solver_run.py")), "gdsolver", str(path)]
            command += ["--time", str(arguments.time)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            record = {"case": name, **json.loads(done.stdout.splitlines()[-1])}
            records.append(record)
            print("|", " | ".join([*cells(record), "; ".join(record["notes"])]), "|", flush=True)
    if arguments.json:
        about = {"cores": os.cpu_count(), "time_s": arguments.time}
        arguments.json.write_text(json.dumps({**about, "records": records}) + "\n")


if __name__ == "__main__":
    main()
