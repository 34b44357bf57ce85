"""What each search of the output layer buys: jobs with all of them, and with one left out, by processor time.

usage: python benchmarks/ablation.py FOLDER [--time 5] [--seeds 3] [--json FILE]

A row is a snapshot with an output layer as its block, a column the worst value of the seeds with that search left out.
The clock is the processor's, so that other work on the machine says nothing; branching solvers keep the wall's.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.given import snapshots_in
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.control import Control
from solver_service.milp.final_layer.improving import Improver
from solver_service.milp.solve import solve

SEARCHES = (
    "descents",
    "annealed descents",
    "line searches",
    "long descents",
    "descents on shares",
    "descents on smoothed counts",
    "a convex stand-in",
    "descents on a convex stand-in",
    "kept sets",
    "kept sets at prices",
    "branching around the best",
)
FIELDS = ("objective", "radius", "bias_radius", "constraints", "margin", "tolerance")


READ_EVERY_S = 1e-3


class ProcessorTime(Control):
    """A control whose clock is the processor's.

    Reading that takes a system call, which can be slower than what it is to time: it is read once a millisecond, and
    the ordinary clock goes on in between.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began_s = self._read_s = time.process_time()
        self._read_at = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Processor seconds since the job began."""
        since = time.monotonic() - self._read_at
        if since > READ_EVERY_S:
            self._read_s, self._read_at, since = time.process_time(), time.monotonic(), 0.0
        return self._read_s + since - self._began_s


def without(search: str | None) -> Callable[[Improver], None]:
    """What an Improver begins with, one search left out."""

    def begin(improver: Improver) -> None:
        BEGIN(improver)
        improver.accounts[:] = [account for account in improver.accounts if account.name != search]

    return begin


BEGIN = Improver._begin


def value(snapshot: Snapshot, seconds: float, seed: int, search: str | None) -> float | None:
    """The value that a job comes to; None where nothing keeps the constraints."""
    fields: dict[str, Any] = {name: snapshot.note[name] for name in FIELDS if name in snapshot.note}
    spec = JobSpec.model_validate({**fields, "limits": {"time_s": seconds}, "solver": {"seed": seed}})
    Improver._begin = without(search)  # type: ignore[method-assign]
    result = solve(snapshot, spec, ProcessorTime()).result
    kept = result.improved or not any("breaks" in note for note in result.notes)
    return result.objective.final if kept else None


def output_layers_in(folder: Path) -> list[Path]:
    """The snapshots of a folder whose block is an output layer; ends the program where there is none."""
    found = [path for path in snapshots_in(folder) if Snapshot.from_bytes(path.read_bytes()).is_final_identity]
    return found or sys.exit(f"no snapshot in {folder} has an output layer as its block")


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows, paths = [], output_layers_in(given.folder)
    print("| snapshot | all | " + " | ".join(f"without {search}" for search in SEARCHES) + " |")
    print("|---" * (2 + len(SEARCHES)) + "|")
    for path in paths:
        snapshot = Snapshot.from_bytes(path.read_bytes())
        row: dict[str, Any] = {"snapshot": path.stem}
        for search in (None, *SEARCHES):
            found = [value(snapshot, given.time, seed, search) for seed in range(given.seeds)]
            row[search or "all"] = None if None in found else max(found)  # type: ignore[type-var]
        rows.append(row)
        cells = ["none kept" if row[name] is None else f"{row[name]:.5g}" for name in ("all", *SEARCHES)]
        print(f"| {path.stem} | " + " | ".join(cells) + " |", flush=True)
    if given.json:
        about = {"time_s": given.time, "seeds": given.seeds, "clock": "processor", "cores": os.cpu_count()}
        given.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
