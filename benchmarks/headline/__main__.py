"""The hybrid against the strongest things a practitioner would do, at the same cost. Resumable.

usage: python -m benchmarks.headline [--quick | --short] [--only NAME ...] [--seeds N] [--processes N] [--gateway URL]
                                     [--results DIR]

For each case and seed the hybrid is run first; its CPU seconds, the solver's included, are the budget of everybody
else, who begin anew from new weights until it is used up, and the best start on selection and validation data is kept.
Writes runs.jsonl (one line a run), tables.md and headline.png, and the tables into docs/headline.md. A run that is
there is not made again, unless code that it depends on has changed.
"""

import argparse
import contextlib
import importlib
import os
from pathlib import Path

from benchmarks.given import chosen as named
from benchmarks.headline.cache import ROOT, Cache
from benchmarks.headline.making import Where, in_parallel, keys_of
from benchmarks.headline.matrix import FULL, SEEDS, Mode, cases, plans
from benchmarks.headline.ready import need_tasks
from benchmarks.headline.tables import document, replaced

DOCS = ROOT / "docs" / "headline.md"
RESULTS = ROOT / "benchmarks" / "results" / "headline"


def main() -> None:
    """Make the runs that are missing, and write everything down after each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", action="store_true", help="five cases, three seeds, a tenth of the time")
    modes.add_argument("--short", action="store_true", help="twelve cases, five seeds, a tenth of the time")
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first-seed", type=int, default=0, help="designs are chosen on seeds from 100 on")
    parser.add_argument("--processes", type=int, default=1, help="cases and seeds at a time, each with its own pool")
    parser.add_argument("--gateway", help="a pool that is there already; the ablation needs one of its own")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("GDSOLVER_DATA"))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    mode: Mode = "quick" if arguments.quick else "short" if arguments.short else "full"
    folder = arguments.results or RESULTS / mode
    named(FULL, arguments.only, lambda case: case.name, "case")
    chosen = cases(mode, tuple(arguments.only))
    need_tasks((case.task for case in chosen), arguments.data_dir)
    seeds = arguments.seeds or SEEDS[mode]
    groups = list(plans(chosen, seeds, first=arguments.first_seed, ablation=arguments.gateway is None))
    where = Where(folder / "runs.jsonl", arguments.data_dir, arguments.gateway)
    in_parallel(groups, arguments.processes, where)
    cache = Cache(where.runs)
    keys = [key for group in groups for key in keys_of(group, cache)]
    if not arguments.only:
        cache.forget_all_but(keys)
    records = [record for key in keys if (record := cache.get(key))]
    text = document(records)
    (folder / "tables.md").write_text(text)
    if folder.parent == RESULTS and not arguments.only:
        in_docs(folder.name, text)
    with contextlib.suppress(ImportError):  # without matplotlib there are tables alone
        importlib.import_module("benchmarks.headline.plots").write_plot(records, folder / "headline.png")
    print(text)


def in_docs(mode: str, text: str) -> None:
    """Put the tables of a mode into the guide, where it has a place for them."""
    DOCS.write_text(replaced(DOCS.read_text(), mode, text))


if __name__ == "__main__":
    main()
