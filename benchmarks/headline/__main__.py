"""The hybrid against the strongest things a practitioner would do, at the same cost. Resumable.

usage: python -m benchmarks.headline [--quick] [--only NAME ...] [--seeds N] [--gateway URL] [--results DIR]

For each case and seed the hybrid is run first; its CPU seconds, the solver's included, are the budget of everybody
else, who begin anew from new weights until it is used up, and the best start on selection and validation data is kept.
Writes runs.jsonl (one line a run), tables.md and headline.png, and the tables into docs/headline.md. A run that is
there is not made again, unless code that it depends on has changed.
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
from benchmarks.headline.tables import document, replaced
from trainer.lab.experiment import warm_up

DOCS = ROOT / "docs" / "headline.md"
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
    if folder.parent == RESULTS and not arguments.only:
        in_docs(folder.name, text)
    write_plot(records, folder / "headline.png")
    print(text)


def make_all(
    hybrid: Plan, others: list[Plan], cache: Cache, data_dir: Path | None, pool: Solver
) -> list[dict[str, Any]]:
    """The hybrid's run, whose cost is the budget, and the others' on the same seed: from the cache, or made now."""
    first = make(hybrid, None, cache, data_dir, pool)
    return [first, *(make(plan, None if plan.is_hybrid else first, cache, data_dir, pool) for plan in others)]


def make(
    plan: Plan, budget: dict[str, Any] | None, cache: Cache, data_dir: Path | None, pool: Solver
) -> dict[str, Any]:
    """One run, from the cache or made now; `budget` is the run that says what it may cost."""
    key = cache.key(plan, budget["key"] if budget else None)
    kept = cache.get(key)
    if kept is not None:
        return kept
    record = cache.put(key, run(plan, data_dir, budget["cpu_s"] if budget else None, pool if plan.is_hybrid else None))
    what = f"{record['case']}, {record['method']}, seed {record['seed']}"
    print(f"{what}: {record['test']:.4g} in {record['cpu_s']:.1f} s, adopted {record['adopted']}", flush=True)
    return record


def in_docs(mode: str, text: str) -> None:
    """Put the tables of a mode into the guide, where it has a place for them."""
    DOCS.write_text(replaced(DOCS.read_text(), mode, text))


if __name__ == "__main__":
    main()
