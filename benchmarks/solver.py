"""GDSolver against what a user would do without it, on every snapshot of a folder.

usage: python benchmarks/solver.py [FOLDER] [--time 60] [--seeds 0] [--only NAME ...] [--methods NAME ...]

Every run has a process of its own with one thread, one after the other. Peers: the authors' formulation in SCIP
(`reference-scip`, zero_one only), the textbook big-M model in SCIP and in HiGHS (`plain-scip`, `plain-highs`), all with
default settings and the fastest way to build a model that we know. Writes benchmarks/results/: solver.json with every
trajectory, solver.md, and two plots. Records of the same limit that are in solver.json already are kept with `--keep`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.given import snapshots_in
from benchmarks.solver_report import table, write_plots
from benchmarks.solver_run import obstacle
from shared.snapshot import Snapshot

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("gdsolver", "reference-scip", "plain-scip", "plain-highs")
RESULTS = ROOT / "benchmarks" / "results"
DEFAULT_FOLDER = ROOT / "benchmarks" / "snapshots"
SPARE_S = 120
"""How long past its limit a run may last before it is given up."""

Record = dict[str, Any]


def eligible(path: Path, method: str) -> bool:
    """Whether a method is for a snapshot."""
    return obstacle(Snapshot.from_bytes(path.read_bytes()), method) is None


def run(path: Path, method: str, seed: int, time_s: float) -> Record:
    """Run one method on one snapshot in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "solver_run.py"), method, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--time", str(time_s), "--seed", str(seed)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=time_s + SPARE_S,
    )
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return {"snapshot": path.stem, "method": method, "seed": seed, "time_s": time_s, **record}


def write(records: list[Record], folder: Path) -> None:
    """Write the records, the table and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    rows = ",\n".join(json.dumps(record) for record in records)
    (folder / "solver.json").write_text(f'{{"about": {json.dumps(about)},\n"records": [\n{rows}\n]}}\n')
    (folder / "solver.md").write_text(table(records))
    write_plots(records, folder)


def main() -> None:
    """Run what was asked for, writing after every run so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    parser.add_argument("--time", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[], help="snapshots whose name contains one of these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    paths = snapshots_in(arguments.folder, only=arguments.only)
    stored = arguments.results / "solver.json"
    records: list[Record] = json.loads(stored.read_text())["records"] if arguments.keep and stored.exists() else []
    for path in paths:
        for method in filter(lambda name: eligible(path, name), arguments.methods):
            for seed in arguments.seeds:
                key = {"snapshot": path.stem, "method": method, "seed": seed, "time_s": arguments.time}
                records = [old for old in records if not key.items() <= old.items()]
                records.append(run(path, method, seed, arguments.time))
                last = records[-1]["points"][-1] if records[-1]["points"] else None
                print(path.stem, method, seed, f"{records[-1]['seconds']:.2f} s", last, flush=True)
                write(records, arguments.results)
    if not records:
        sys.exit(f"none of {', '.join(arguments.methods)} is for any snapshot chosen in {arguments.folder}")
    print((arguments.results / "solver.md").read_text())


if __name__ == "__main__":
    main()
