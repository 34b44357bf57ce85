"""Random jobs against the clock: every one ends by its limit or its cancel, and no number of a result is infinite.

usage: python benchmarks/limits.py [--jobs 500] [--seed 1] [--first 0] [--json FILE]

Allowed are limit + 2 % + 0.3 s, and 0.5 s after a cancel. Sizes go to 2e7 coefficients N d K, and job 0 is 50,000 x 512
x 10. Jobs run one after the other in one process with one thread. A late job's line says where it was when its time was
up, innermost call first, and its processor time: where that is far below the seconds, other work had the machine.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
from collections import Counter
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.limits_run import Run, allowance, describe, instance, serve

PATIENCE_S = 120
"""How long a job may last before its process is ended."""
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


class Solver:
    """A process that solves jobs by number; a new one takes its place when it dies or hangs."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def run(self, number: int) -> Run:
        """What became of this job."""
        self._connection.send(number)
        try:
            if self._connection.poll(PATIENCE_S):
                answer = self._connection.recv()
                assert isinstance(answer, Run)
                return answer
            status = f"no answer after {PATIENCE_S} s"
        except (EOFError, ConnectionError):
            status = "the process died"
        self._process.kill()
        self._start()
        case = instance(self._seed, number)
        return Run(number, describe(case), case.spec.limits.time_s, case.cancel_s, status=status)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _start(self) -> None:
        self._connection: Connection
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs, self._seed), daemon=True)
        self._process.start()
        theirs.close()


def offenders(runs: list[Run]) -> list[Run]:
    """The runs that were late, gave no answer or a number that is not finite; the latest first."""
    wrong = [run for run in runs if run.late_s > 0 or run.not_finite]
    return sorted(wrong, key=lambda run: -run.late_s)


def line(run: Run, seed: int) -> str:
    """One offender in a few lines, with how to run it again."""
    ended = f"cancelled at {run.cancel_s:.2f} s" if run.cancel_s is not None else f"limit {run.limit_s:g} s"
    words = [
        f"{run.about}: {ended}, ended after {run.seconds:.2f} s, {run.late_s:.2f} s late",
        f"  {run.cpu_s:.2f} s of processor, {run.status}, {run.start} -> {run.final}, first incumbent {run.first_s}; "
        f"again: --seed {seed} --first {run.number} --jobs 1",
    ]
    words += [f"  not finite: {', '.join(run.not_finite)}"] if run.not_finite else []
    words += [f"  in {frame}" for frame in run.stack]
    return "\n".join(words)


def summary(runs: list[Run]) -> str:
    """Counts over all runs."""
    cancelled = [run for run in runs if run.cancel_s is not None]
    statuses = ", ".join(f"{count} {status}" for status, count in Counter(run.status for run in runs).most_common())
    late = sum(run.late_s > 0 for run in runs)
    worst = max((run.late_s for run in runs if math.isfinite(run.late_s)), default=0.0)
    infinite = sum(bool(run.not_finite) for run in runs)
    return (
        f"{len(runs)} jobs, {len(cancelled)} of them cancelled: {late} late (of the cancelled "
        f"{sum(run.late_s > 0 for run in cancelled)}), the worst by {max(0.0, worst):.2f} s; "
        f"{infinite} with a number that is not finite\n{statuses}"
    )


def main() -> int:
    """Run the jobs, name the late ones, and exit with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)  # before the process is started that loads numpy
    solver, runs = Solver(arguments.seed), []
    for number in range(arguments.first, arguments.first + arguments.jobs):
        runs.append(solver.run(number))
        latest = runs[-1]
        if latest.late_s > 0 or latest.not_finite:
            print(line(latest, arguments.seed), flush=True)
    solver.close()
    print(f"\n{summary(runs)}")
    if arguments.json:
        about = {"python": platform.python_version(), "machine": platform.machine(), "seed": arguments.seed}
        records = [{**asdict(run), "allowed_s": allowance(run.limit_s)} for run in runs]
        arguments.json.write_text(json.dumps({"about": about, "runs": records}, indent=1, default=str) + "\n")
    return 1 if offenders(runs) else 0


if __name__ == "__main__":
    sys.exit(main())
