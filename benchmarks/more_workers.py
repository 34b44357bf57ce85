"""How much sooner a trainer is as far with more solver workers.

usage: python benchmarks/more_workers.py [--task TASK ...] [--pools 1,2,2x2,4x4] [--seeds 10] [--at-once] [--json FILE]

Trains the same seeds of `gdsolver compare TASK --methods hybrid` against pools of so many workers, each pool with so
many jobs a stall (2x3: two workers, three jobs; 2: one job). Told is, for every pool after the first, the time until
selection data say as much as both it and the first pool reached in the end on that seed, over the time that the first
took for it: the median over the seeds, and all seeds' time together. Below 1 is sooner. A pool keeps as many cores busy
as it has workers, the trainer one more: with `--at-once` the pools are tried beside one another, which needs all those
cores at the same time.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from columns import columns

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("formula", "digits --label-noise 0.3")
GROWS = "accuracy"
"""The one metric of these tasks of which more is better."""
Curve = list[tuple[float, float]]
"""Seconds since the run's start, and what selection data said then; lower is better."""


@dataclass(frozen=True)
class Pool:
    """So many solver workers, and jobs that a stall sends."""

    workers: int
    jobs: int

    @classmethod
    def of(cls, text: str) -> "Pool":
        """From 2x3, or 2."""
        workers, _, jobs = text.partition("x")
        return cls(int(workers), int(jobs or 1))

    def __str__(self) -> str:
        return f"{self.workers} workers, {self.jobs} jobs"


def curves(task: str, pool: Pool, seeds: int) -> list[Curve]:
    """Train all seeds against a pool of one's own."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-c", "import gdsolver; gdsolver.main()", "compare", *shlex.split(task), "--local"]
        command += [
            "--methods",
            "hybrid",
            "--workers",
            str(pool.workers),
            "--fanout",
            str(pool.jobs),
            "--seeds",
            str(seeds),
        ]
        command += ["--out", scratch, "--json", str(report)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        return [_curve(run) for run in json.loads(report.read_text())["runs"]]


def _curve(run: dict[str, Any]) -> Curve:
    sign = -1.0 if run["metric"] == GROWS else 1.0
    points = [(epoch["ended_s"], sign * epoch["score"]) for epoch in run["epochs"]]
    return [*points, (run["seconds"], sign * run["selection"])]


def reached(curve: Curve, level: float) -> float:
    """Seconds until a curve is as low as this; its end, if it never is."""
    return next((seconds for seconds, value in curve if value <= level), curve[-1][0])


def compared(first: list[Curve], other: list[Curve]) -> dict[str, float]:
    """The other pool's times over the first's, until both are as far as the one that got less far."""
    pairs = list[tuple[float, float]]()
    for one, two in zip(first, other, strict=True):
        level = max(min(value for _, value in curve) for curve in (one, two))
        pairs.append((reached(one, level), reached(two, level)))
    return {
        "median of ratios": statistics.median(two / one for one, two in pairs),
        "ratio of sums": sum(two for _, two in pairs) / sum(one for one, _ in pairs),
    }


def measure(task: str, pools: list[Pool], seeds: int, *, at_once: bool) -> list[dict[str, Any]]:
    """All pools on a task: how far they got, in what time, and how much sooner than the first."""
    with ThreadPoolExecutor(len(pools) if at_once else 1) as threads:
        found = list(threads.map(partial(curves, task, seeds=seeds), pools))
    rows = []
    for pool, own in zip(pools, found, strict=True):
        row = {"task": task, "workers": pool.workers, "jobs": pool.jobs}
        row["best, median"] = abs(statistics.median(min(value for _, value in curve) for curve in own))
        row["whole run, median s"] = statistics.median(curve[-1][0] for curve in own)
        rows.append(row | compared(found[0], own))
    return rows


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", default=TASKS, help="as `gdsolver compare` takes it, its options included")
    parser.add_argument("--pools", default="1,2,2x2,4x4")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pools = [Pool.of(part) for part in options.pools.split(",")]
    rows = [row for task in options.task for row in measure(task, pools, options.seeds, at_once=options.at_once)]
    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    print(f"{options.seeds} seeds, {os.cpu_count()} cores\n{columns(list(rows[0]), cells)}")
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "seeds": options.seeds, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
