"""The paper's regressions: its four baselines, L-BFGS and both hybrids, many seeds, end to end.

usage: python -m benchmarks.headline.paper [--tasks NAME ...] [--seeds 10] [--processes N] [--resume] [--results DIR]

Every method trains once per seed until its selection error has stalled for good; the hybrids do so against a pool of
their own (gateway, Redis, one solver worker). Then every baseline of the paper gets the wall time that `hybrid` took on
that seed, and spends it on restarts from new initial weights, of which the best on selection data is kept. L-BFGS gets
the CPU time that the dearer hybrid took, its pool's included. Real tables (`uci:NAME`, `california-housing`) have half
the seeds and need GDSOLVER_DATA. Writes headline.json (every curve), headline.md (the tables) and headline.png (the
curves) to `--results`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.headline.paper_report import BASELINES, HYBRIDS, tables, write_plot
from benchmarks.headline.pool import Solver, solver
from benchmarks.headline.ready import need_tasks
from trainer.lab.callbacks import Callback
from trainer.lab.experiment import warm_up
from trainer.lab.loop import Settings, train
from trainer.lab.methods import METHODS
from trainer.lab.runs import Run
from trainer.lab.tasks import Request, Task, load_task
from trainer.pool.client import SolverClient

ROOT = Path(__file__).resolve().parent.parent.parent
SYNTHETIC = ("identity", "affine", "polynomial", "formula")
TABLES = ("uci:energy", "uci:concrete", "uci:bostonHousing", "uci:power-plant", "california-housing")
FRACTIONS = {"california-housing": 0.25}
"""Of the training data, where not all of it."""
NEW_WEIGHTS = 1000
"""Seeds of restarts are this far from those of the first runs."""

Record = dict[str, Any]
Found = dict[tuple[str, int], tuple[list[Record], list[Record]]]
"""The runs until they stalled, and the restarts, by task and seed."""


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


def restarts(task: Task, name: str, seed: int, *, wall_s: float | None = None, cpu_s: float | None = None) -> Record:
    """One baseline again and again, each time from new weights, until its time is over; the best on selection."""
    clock, most = (time.process_time, cpu_s) if wall_s is None else (time.monotonic, wall_s)
    assert most is not None, "seconds of one kind"
    began, runs = clock(), list[Run]()
    while (left := most - (clock() - began)) > 0:
        limit = replace(settings_for(task), **{"most_cpu_s" if wall_s is None else "most_s": left})
        number = seed + NEW_WEIGHTS * len(runs)
        runs.append(_train(task, name, number, limit))
    best = min(runs, key=lambda run: run.selection)
    return {
        "task": task.name,
        "method": name,
        "seed": seed,
        "test": best.test,
        "selection": best.selection,
        "runs": len(runs),
        "seconds": clock() - began,
    }


def settings_for(task: Task) -> Settings:
    """Tables are tunnelled wherever it pays; the synthetic tasks have a policy of their own."""
    return Settings(layer="auto") if task.name not in SYNTHETIC else Settings()


def one_seed(name: str, seed: int, data_dir: Path | None) -> tuple[list[Record], list[Record]]:
    """All methods on a task, with a pool for the hybrids: the runs until they stalled, and the restarts."""
    torch.set_num_threads(1)
    warm_up()
    task = load_task(Request(name, data_dir=data_dir, fraction=FRACTIONS.get(name, 1.0)), seed)
    once, cpu = list[Record](), dict[str, float]()
    with solver(None) as pool:
        for method in (*BASELINES, "lbfgs", *HYBRIDS):
            began = time.process_time() + _of(pool)
            run = _train(task, method, seed, settings_for(task), pool.client if method in HYBRIDS else None)
            cpu[method] = time.process_time() + _of(pool) - began
            once.append(record(run) | {"cpu_s": round(cpu[method], 3)})
    wall_s = next(entry["seconds"] for entry in once if entry["method"] == "hybrid")
    again = [restarts(task, method, seed, wall_s=wall_s) for method in BASELINES]
    again.append(restarts(task, "lbfgs", seed, cpu_s=max(cpu[method] for method in HYBRIDS)))
    return once, again


def _train(task: Task, name: str, seed: int, settings: Settings, client: SolverClient | None = None) -> Run:
    run = train(task, METHODS[name], seed=seed, settings=settings, callback=Callback(), client=client)
    if run.interrupted:  # Ctrl-C ends a run early; what it reached by then is no result
        raise KeyboardInterrupt
    return run


def known(folder: Path) -> Found:
    """The runs and restarts that are there already, by task and seed."""
    file, found = folder / "headline.json", Found()
    if file.exists():
        content = json.loads(file.read_text())
        for place, part in enumerate(("runs", "restarts")):
            for entry in content[part]:
                found.setdefault((entry["task"], entry["seed"]), ([], []))[place].append(entry)
    return found


def _of(pool: Solver) -> float:
    return pool.cpu_s() if pool.cpu_s else 0.0


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
    parser.add_argument("--tasks", nargs="+", choices=(*SYNTHETIC, *TABLES), help="default: all there is data for")
    parser.add_argument("--seeds", type=int, default=10, help="of the synthetic tasks; tables have half as many")
    parser.add_argument("--processes", type=int, default=1, help="seeds at a time")
    parser.add_argument(
        "--resume", action="store_true", help="keep the seeds that are in `--results`, and add the others"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    data = os.environ.get("GDSOLVER_DATA")
    folder = Path(data) if data else None
    names = arguments.tasks or [*SYNTHETIC, *(TABLES if data else ())]
    need_tasks(names, folder)
    plans = [
        (name, seed)
        for name in names
        for seed in range(arguments.seeds if name in SYNTHETIC else -(-arguments.seeds // 2))
    ]
    about = {
        "command": f"python -m benchmarks.headline.paper --tasks {' '.join(names)} --seeds {arguments.seeds}",
        "processes": arguments.processes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
    }
    there = known(arguments.results) if arguments.resume else {}
    found = {plan: there[plan] for plan in plans if plan in there}
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as processes:
        waiting = {processes.submit(one_seed, *plan, folder): plan for plan in plans if plan not in found}
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            write(about, *in_order(found, plans), arguments.results)
            latest = {entry["method"]: f"{entry['test']:.3g}" for entry in found[waiting[done]][0]}
            print(*waiting[done], latest, flush=True)
    once, again = in_order(found, plans)
    print(write(about, once, again, arguments.results))
    write_plot(once, arguments.results / "headline.png")


def in_order(found: Found, plans: Sequence[tuple[str, int]]) -> tuple[list[Record], list[Record]]:
    """All runs and all restarts, by task and seed."""
    done = [found[plan] for plan in plans if plan in found]
    return [entry for once, _ in done for entry in once], [entry for _, again in done for entry in again]


if __name__ == "__main__":
    main()
