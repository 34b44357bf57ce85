"""The hybrid against the strongest things a practitioner would do, at the same cost. Resumable.

usage: python -m benchmarks.headline [--quick] [--only NAME ...] [--seeds N] [--gateway URL] [--results DIR]

For each case and seed the hybrid is run first; its CPU seconds, the solver's included, are the budget of everybody
else, who begin anew from new weights until it is used up, and the best start on selection and validation data is kept.
Writes runs.jsonl (one line a run), tables.md and headline.png; a run that is there is not made again.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.headline.cache import ROOT, Cache
from benchmarks.headline.matrix import FULL_SEEDS, QUICK_SEEDS, Plan, cases, plans
from benchmarks.headline.plots import write_plot
from benchmarks.headline.pool import Solver, solver
from benchmarks.headline.run import run
from benchmarks.headline.tables import document
from trainer.lab.experiment import warm_up

RESULTS = ROOT / "benchmarks" / "results" / "headline"


def main() -> None:
    """Make the runs that are missing, and write everything down after each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five cases, three seeds, a tenth of the time")
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--gateway", help="a pool that is there already; the ablation needs one of its own")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("GDSOLVER_DATA"))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    folder = arguments.results or RESULTS / ("quick" if arguments.quick else "full")
    chosen = cases(quick=arguments.quick, only=tuple(arguments.only))
    seeds = arguments.seeds or (QUICK_SEEDS if arguments.quick else FULL_SEEDS)
    torch.set_num_threads(1)
    warm_up()
    cache, keys = Cache(folder / "runs.jsonl"), list[str]()
    with solver(arguments.gateway) as pool:
        for hybrid, others in plans(chosen, seeds, ablation=pool.ablates):
            made = make_all(hybrid, others, cache, arguments.data_dir, pool)
            keys += [record["key"] for record in made]
    if not arguments.only:
        cache.forget_all_but(keys)
    records = [record for key in keys if (record := cache.get(key))]
    text = document(records)
    (folder / "tables.md").write_text(text)
    write_plot(records, folder / "headline.png")
    print(text)


def make_all(
    hybrid: Plan, others: list[Plan], cache: Cache, data_dir: Path | None, pool: Solver
) -> list[dict[str, Any]]:
    """The hybrid's run, whose cost is the budget, and the others' on the same seed: from the cache, or made now."""
    key = cache.key(hybrid, None)
    first = cache.get(key) or cache.put(key, run(hybrid, data_dir, None, pool))
    made = [first]
    for plan in others:
        key = cache.key(plan, None if plan.is_hybrid else first["key"])
        record = cache.get(key)
        if record is None:
            record = cache.put(key, run(plan, data_dir, first["cpu_s"], pool if plan.is_hybrid else None))
            print(
                f"{plan.case.name} {plan.label} {plan.seed}: {record['test']:.4g}, {record['cpu_s']:.1f} s", flush=True
            )
        made.append(record)
    return made


if __name__ == "__main__":
    main()
