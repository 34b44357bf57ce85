"""What tunnelling hidden layers is worth: the paper's four regressions, all methods, many seeds, end to end.

usage: python -m benchmarks.headline.paper [--tasks identity ...] [--seeds 10] [--results DIR]

Every method trains once per seed until its selection error has stalled for good; the hybrid does so against a pool of
its own (gateway, Redis, one solver worker). Then every baseline gets the wall time that the hybrid took on that seed,
and spends it on restarts from new initial weights, of which the best on selection data is kept. Writes headline.json
(every curve), headline.md (the tables) and headline.png (the curves and the distribution of times) to `--results`.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.headline.paper_report import tables, write_plot
from trainer.lab.callbacks import Callback
from trainer.lab.experiment import warm_up
from trainer.lab.loop import Settings, train
from trainer.lab.methods import METHODS
from trainer.lab.runs import Run
from trainer.lab.tasks import Request, Task, load_task
from trainer.pool.client import SolverClient
from trainer.pool.embedded import embedded_pool

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = ("identity", "affine", "polynomial", "formula")
BASELINES = ("sgd", "sgd-lrs", "adam", "adam-lrs")
NEW_WEIGHTS = 1000
"""Seeds of restarts are this far from those of the first runs."""

Record = dict[str, Any]


def record(run: Run) -> Record:
    """What the report needs of one run: its final errors, its time, and when its selection error reached new lows."""
    first = next((event.before for event in run.events if event.kind in ("adopted", "rejected")), None)
    return {
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "test": run.test,
        "validation": run.validation,
        "selection": run.selection,
        "seconds": run.seconds,
        "jobs": run.summary.jobs if run.summary else 0,
        "adopted": run.adopted,
        "validation_at_first_answer": first,
        "curve": new_lows([*((epoch.ended_s, epoch.score) for epoch in run.epochs), (run.seconds, run.selection)]),
    }


def new_lows(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (seconds, score) at which a score is lower than all before it, and the last one; rounded."""
    found: list[tuple[float, float]] = []
    for index, (seconds, score) in enumerate(points):
        if not found or score < found[-1][1] or index == len(points) - 1:
            lowest = min(score, found[-1][1]) if found else score
            found.append((round(seconds, 4), float(f"{lowest:.6g}")))
    return found


def restarts(task: Task, name: str, seed: int, seconds: float) -> Record:
    """One baseline again and again, each time from new weights, until `seconds` are over; the best on selection."""
    began, runs = time.monotonic(), list[Run]()
    while (left := seconds - (time.monotonic() - began)) > 0:
        number = seed + NEW_WEIGHTS * len(runs)
        runs.append(train(task, METHODS[name], seed=number, settings=Settings(most_s=left), callback=Callback()))
    best = min(runs, key=lambda run: run.selection)
    return {
        "task": task.name,
        "method": name,
        "seed": seed,
        "test": best.test,
        "selection": best.selection,
        "runs": len(runs),
        "seconds": time.monotonic() - began,
    }


def write(about: Record, once: Sequence[Record], again: Sequence[Record], folder: Path) -> str:
    """Write all that there is so far; the tables as text."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "runs": list(once), "restarts": list(again)}
    (folder / "headline.json").write_text(json.dumps(content) + "\n")
    text = tables(once, again)
    (folder / "headline.md").write_text(text)
    return text


def main() -> None:
    """Run everything, writing after each seed so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    about = {
        "command": f"python -m benchmarks.headline.paper --tasks {' '.join(arguments.tasks)} --seeds {arguments.seeds}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
    }
    once, again = list[Record](), list[Record]()
    with (
        tempfile.TemporaryDirectory() as scratch,
        embedded_pool(Path(scratch) / "pool.log") as url,
        SolverClient(url) as client,
    ):
        for name in arguments.tasks:
            for seed in range(arguments.seeds):
                task = load_task(Request(name), seed)
                for method in (*BASELINES, "hybrid"):
                    run = train(
                        task, METHODS[method], seed=seed, settings=Settings(), callback=Callback(), client=client
                    )
                    once.append(record(run))
                seconds = once[-1]["seconds"]
                again.extend(restarts(task, method, seed, seconds) for method in BASELINES)
                text = write(about, once, again, arguments.results)
                latest = {entry["method"]: f"{entry['test']:.3g}" for entry in once[-5:]}
                spent = statistics.fmean(entry["seconds"] for entry in once[-5:-1])
                print(name, seed, latest, f"hybrid {seconds:.1f} s, baselines {spent:.1f} s", flush=True)
    write_plot(once, arguments.results / "headline.png")
    print(text)


if __name__ == "__main__":
    main()
