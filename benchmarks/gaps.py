"""How far from proven output layers are after a minute, here and at another commit of the project, side by side.

    python benchmarks/gaps.py DIR [--other CHECKOUT] [--time 60] [--only NAME ...] [--seed 0] [--ask JSON] [--json FILE]

Every snapshot below DIR whose note says what to solve runs in a process and one thread of its own. `--ask` has fields
of the spec that replace the notes', as `'{"objective": "zero_one", "constraints": [...]}'`. With `--other` both run at
the same time, on a core each. The gap is `(final - bound) / final`, and 1 where no weights that keep the constraints
were found. At the end stands the geometric mean of the ratios of the gaps that are open on both sides.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from given import snapshots_in

ROOT = Path(__file__).resolve().parent.parent
ASKED = ("objective", "radius", "bias_radius", "constraints", "margin", "tolerance")
Row = dict[str, Any]

# It runs in other commits, too, so it takes from the project what has always been there.
CHILD = """
import json, sys
from pathlib import Path
from shared.constraints import violations
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.solve import solve
snapshot = Snapshot.from_bytes(Path(sys.argv[1]).read_bytes())
asked = {name: value for name, value in snapshot.note.items() if name in sys.argv[4].split(",")}
asked |= json.loads(sys.argv[5])
if asked["objective"] not in ("ramp", "hinge"):
    asked.pop("margin", None)
limits = {"time_s": float(sys.argv[2]), "memory_mb": 4000}
spec = JobSpec(**asked, limits=limits, solver={"seed": int(sys.argv[3])})
solution = solve(snapshot, spec)
kept = not violations(spec.constraints, snapshot, solution.weight, solution.bias)
told, status = solution.result.objective, solution.result.status.value
print(json.dumps({"final": told.final, "bound": told.bound, "status": status, "feasible": kept}))
"""


def started(checkout: Path, snapshot: Path, options: argparse.Namespace) -> "subprocess.Popen[str]":
    """One job in a process of its own, with the code of a checkout."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", CHILD, str(snapshot), str(options.time), str(options.seed)]
    command += [",".join(ASKED), options.ask]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}, cwd=checkout)


def row_of(process: "subprocess.Popen[str]") -> Row:
    """What a job came to, and its gap."""
    *_, last = process.communicate()[0].splitlines()
    found: Row = json.loads(last)
    closed = found["status"] == "optimal" or found["final"] <= found["bound"]
    open_gap = 0.0 if closed else (found["final"] - found["bound"]) / found["final"]
    return {**found, "gap": open_gap if found["feasible"] else 1.0}


def solvable(folder: Path, only: list[str]) -> list[Path]:
    """The output layers below a folder whose notes say what to solve; ends the program where there is none."""
    from shared.snapshot import Snapshot  # noqa: PLC0415 (the children have a checkout of their own)

    found = []
    for path in snapshots_in(folder, only=only, below=True):
        snapshot = Snapshot.from_bytes(path.read_bytes())
        plain = not snapshot.tail and snapshot.activation.name == "identity" and "objective" in snapshot.note
        if plain:
            found.append(path)
    if not found:
        sys.exit(f"no snapshot chosen in {folder} is an output layer whose note says what to solve")
    return found


def main() -> None:
    """Run all, print a line each and the mean ratio, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", type=Path, help="a checkout of another commit")
    parser.add_argument("--time", type=float, default=60.0, help="limit of each job, in seconds")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ask", default="{}", help="fields of the spec, as JSON, instead of the notes'")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, dict[str, Row]] = {}
    for path in solvable(options.folder, options.only):
        sides = {"here": ROOT} | ({"other": options.other.resolve()} if options.other else {})
        running = {side: started(checkout, path, options) for side, checkout in sides.items()}
        rows[path.stem] = {side: row_of(process) for side, process in running.items()}
        told = [
            f"{side} {row['final']:.6g} >= {row['bound']:.6g}, gap {row['gap']:.3f}"
            for side, row in rows[path.stem].items()
        ]
        print(f"{path.stem}: {'; '.join(told)}", flush=True)
    ratios = [
        both["here"]["gap"] / both["other"]["gap"]
        for both in rows.values()
        if "other" in both and both["other"]["gap"] > 0
    ]
    both_open = [ratio for ratio in ratios if ratio > 0]
    mean = math.exp(sum(map(math.log, both_open)) / len(both_open)) if both_open else None
    if mean is not None:
        print(f"gaps here against there, geometric mean over {len(both_open)} that are open: {mean:.3f}")
    if options.json:
        about = {
            "cores": os.cpu_count(),
            "time_s": options.time,
            "seed": options.seed,
            "asked": json.loads(options.ask),
        }
        options.json.write_text(json.dumps({**about, "mean_ratio": mean, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
