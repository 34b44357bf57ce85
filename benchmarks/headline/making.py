"""Makes the runs that are missing, some cases and seeds at a time, each process with a pool of its own."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.headline.cache import Cache
from benchmarks.headline.matrix import Plan
from benchmarks.headline.pool import Solver, solver
from benchmarks.headline.run import run
from trainer.lab.experiment import warm_up

Group = tuple[Plan, list[Plan]]
"""The hybrid of a case and seed, whose cost is the budget, and all others."""


@dataclass(frozen=True)
class Where:
    """Where runs are kept, where the data sets are, and the pool, if it is one that is there already."""

    runs: Path
    data_dir: Path | None
    gateway: str | None


def in_parallel(groups: Sequence[Group], processes: int, where: Where) -> None:
    """Make all groups, so many at a time; each run is kept as soon as it is there.

    Budgets are CPU seconds, which do not depend on what the other processes do; a job's limit is wall time, so that
    there should be about two cores for each process.
    """
    context = multiprocessing.get_context("spawn")  # torch and a pool's threads survive no fork
    waiting: Any = context.Queue()
    for number in range(len(groups)):
        waiting.put(number)
    for _ in range(processes):
        waiting.put(None)
    if processes == 1:
        make_from(waiting, groups, where)
        return
    workers = [context.Process(target=make_from, args=(waiting, groups, where)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process has failed; what it said stands above. Runs that are there are kept: run it again")


def make_from(waiting: Any, groups: Sequence[Group], where: Where) -> None:
    """Make one group after another until there is none left."""
    torch.set_num_threads(1)
    warm_up()
    cache = Cache(where.runs)
    with solver(where.gateway) as pool:
        while (number := waiting.get()) is not None:
            make_all(groups[number], cache, where.data_dir, pool)


def make_all(group: Group, cache: Cache, data_dir: Path | None, pool: Solver) -> None:
    """The hybrid's run and the others' on the same seed, unless they are in the cache."""
    hybrid, others = group
    first = make(hybrid, None, cache, data_dir, pool)
    for plan in others:
        make(plan, first, cache, data_dir, pool)


def make(plan: Plan, first: dict[str, Any] | None, cache: Cache, data_dir: Path | None, pool: Solver) -> dict[str, Any]:
    """One run, from the cache or made now; `first` is the run that says what a baseline may cost."""
    key = key_of(plan, first["key"] if first else None, cache)
    kept = cache.get(key)
    if kept is not None:
        return kept
    budget_s = first["cpu_s"] if first and not plan.is_hybrid else None
    record = cache.put(key, run(plan, data_dir, budget_s, pool if plan.is_hybrid else None))
    what = f"{record['case']}, {record['method']}, seed {record['seed']}"
    print(f"{what}: {record['test']:.4g} in {record['cpu_s']:.1f} s, adopted {record['adopted']}", flush=True)
    return record


def keys_of(group: Group, cache: Cache) -> list[str]:
    """The keys of a group's runs."""
    hybrid, others = group
    first = key_of(hybrid, None, cache)
    return [first, *(key_of(plan, first, cache) for plan in others)]


def key_of(plan: Plan, first: str | None, cache: Cache) -> str:
    """The key of a run; hybrids have no budget, only the time that their case gives GD."""
    return cache.key(plan, None if plan.is_hybrid else first)
