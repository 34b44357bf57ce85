"""Jobs against what an expert would script instead, on every snapshot of a folder, in turns, with one thread each.

usage: python benchmarks/rivals.py [FOLDER] [--times 1 5 20] [--seeds 0 1 2] [--only NAME ...] [--rivals NAME ...]
       [--processor]

A job is run once for every time, because what it does depends on its limit; a rival is run for the longest time, and
its values at the others are read from its history. `recipe` is the reference (Adam, biases, L-BFGS-B restarts);
`strongest` is the best of all rivals, each of which has had the whole time. Every run has a process of its own. Writes
rivals.json with every history, rivals.md and rivals.png to the folder of results, after every snapshot.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.given import snapshots_in
from benchmarks.rivals_report import Record, all_rivals, compare, table, write_plot
from benchmarks.rivals_run import RIVALS, members
from shared.snapshot import Snapshot

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DEFAULT_FOLDER = ROOT / "benchmarks" / "snapshots"
SPARE_S = 120
"""How long past ten times its limit (a clock of the processor may stand still) a run may last before it is given up."""
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


@dataclass(frozen=True)
class Run:
    """One process to start: a job (`job`) or a rival, its limit and its seed."""

    method: str
    time_s: float
    seed: int


def turns(rivals: list[str], times: list[float], seeds: list[int]) -> Iterator[Run]:
    """Job, rival, job, rival: no method has the quiet hours of a machine for itself."""
    for seed in seeds:
        jobs = [Run("job", time_s, seed) for time_s in times]
        others = [Run(rival, max(times), seed) for rival in rivals]
        for index in range(max(len(jobs), len(others))):
            yield from (*jobs[index : index + 1], *others[index : index + 1])


def run(path: Path, wanted: Run, *, processor: bool = False) -> Record:
    """Run one method on one snapshot; a run that breaks or hangs has no value, and its record says why."""
    command = [sys.executable, str(ROOT / "benchmarks" / "rivals_run.py"), wanted.method, str(path)]
    command += ["--time", str(wanted.time_s), "--seed", str(wanted.seed)]
    command += ["--processor"] if processor else []
    record: Record = {"snapshot": path.stem, "method": wanted.method, "seed": wanted.seed, "time_s": wanted.time_s}
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **ONE_THREAD},
            timeout=10 * wanted.time_s + SPARE_S,
        )
    except subprocess.TimeoutExpired:
        return {**record, "value": None, "history": [], "error": f"no end after {10 * wanted.time_s + SPARE_S:g} s"}
    except subprocess.CalledProcessError as error:
        return {**record, "value": None, "history": [], "error": error.stderr[-500:]}
    return {**record, **json.loads(done.stdout.splitlines()[-1])}


def write(records: list[Record], times: list[float], folder: Path) -> str:
    """Write the records, the table and the plot; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    rows = ",\n".join(json.dumps(record) for record in records)
    (folder / "rivals.json").write_text(f'{{"about": {json.dumps(about)},\n"records": [\n{rows}\n]}}\n')
    text = f"{table(compare(records, times))}\n{all_rivals(records, times)}"
    (folder / "rivals.md").write_text(text)
    write_plot(records, folder / "rivals.png")
    return text


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 5.0, 20.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="snapshots whose name contains one of these")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--processor", action="store_true", help="the processor's time is what counts, not the wall's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    records: list[Record] = []
    text = ""
    for path in snapshots_in(arguments.folder, only=arguments.only):
        chosen = [name for name in members(Snapshot.from_bytes(path.read_bytes())) if name in arguments.rivals]
        for wanted in turns(chosen, sorted(arguments.times), arguments.seeds):
            records.append(run(path, wanted, processor=arguments.processor))
            last = records[-1]
            print(
                path.stem,
                wanted.method,
                f"{wanted.time_s:g} s",
                wanted.seed,
                last["value"],
                last.get("error", ""),
                flush=True,
            )
        text = write(records, sorted(arguments.times), arguments.results)
    print(text)


if __name__ == "__main__":
    main()
