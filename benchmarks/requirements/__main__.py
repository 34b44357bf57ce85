"""Requirements on counts: jobs against what practitioners would do, at the same cost. Resumable.

usage: python -m benchmarks.requirements [--quick] [--only NAME ...] [--methods NAME ...] [--seeds N] [--results DIR]

For each setting and seed the hybrid is run first; its CPU seconds, the pool's included, are the budget of everybody
else. Writes runs.jsonl (one line a run) and tables.md, and the tables into docs/requirements.md. A run that is there is
not made again, unless code that it depends on has changed.
"""

import argparse
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pooch
import torch

from benchmarks.given import chosen as named
from benchmarks.given import known
from benchmarks.headline.cache import ROOT
from benchmarks.headline.pool import Solver, solver
from benchmarks.headline.ready import need_tasks
from benchmarks.requirements.data import load
from benchmarks.requirements.report import document, replaced, summary
from benchmarks.requirements.run import HYBRID, methods, run
from benchmarks.requirements.settings import FULL_SEEDS, QUICK_S, QUICK_SEEDS, SETTINGS, Setting

DOCS = ROOT / "docs" / "requirements.md"
RESULTS = ROOT / "benchmarks" / "results" / "requirements"
RIVALS = ("biases", "data", "fair", "learned", "measures", "run")
Record = dict[str, Any]


def main() -> None:
    """Make the runs that are missing, and write everything down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed instead of ten, and jobs of 4 seconds")
    parser.add_argument("--only", nargs="+", default=[], help="settings whose name contains one of these")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--methods", nargs="+", default=[], help="these alone, and the hybrid")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("GDSOLVER_DATA"))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    if arguments.data_dir is None:
        parser.error("set GDSOLVER_DATA or give --data-dir: the folder with the data sets")
    settings = [replace(each, time_s=QUICK_S) if arguments.quick else each for each in SETTINGS]
    chosen = named(settings, arguments.only, lambda setting: setting.name, "setting")
    known(arguments.methods, names_of(chosen), "method of these settings")
    need_tasks((setting.task for setting in chosen), arguments.data_dir)
    folder = arguments.results or RESULTS / ("quick" if arguments.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = arguments.seeds or (QUICK_SEEDS if arguments.quick else FULL_SEEDS)
    torch.set_num_threads(1)
    kept = Kept(folder / "runs.jsonl")
    with solver(None) as pool:
        records = [
            record
            for seed in range(seeds)
            for setting in chosen
            for record in make_all(setting, seed, kept, Path(arguments.data_dir), pool, tuple(arguments.methods))
        ]
    text = document(records)
    (folder / "tables.md").write_text(text)
    if folder.parent == RESULTS and not (arguments.only or arguments.methods):
        DOCS.write_text(replaced(DOCS.read_text(), summary(records)))
    print(text)


def names_of(settings: list[Setting]) -> list[str]:
    """The methods that some of these settings have: a name needs no data."""
    nothing: Any = SimpleNamespace(layer=None, sizes=None)
    return list(dict.fromkeys(name for setting in settings for name in methods(setting, nothing, 0, nothing)))


def make_all(
    setting: Setting, seed: int, kept: "Kept", data_dir: Path, pool: Solver, only: tuple[str, ...] = ()
) -> list[Record]:
    """All methods on one seed, or some: the hybrid, then the others within what it took."""
    case = load(setting, seed, data_dir, Path(pooch.os_cache("gdsolver")) / "requirements")
    budget, records = 0.0, []
    for name, method in methods(setting, case, seed, pool).items():
        if only and name not in (HYBRID, *only):
            continue
        key = {"setting": asdict(setting), "method": name, "seed": seed}
        record = kept.get(key)
        if record is None:
            made = run(setting, case, method, budget, pool if name == HYBRID else None)
            record = kept.put(key, {"setting": setting.name, "method": name, "seed": seed, **made})
            best = ", ".join(f"{a:.4f}/{v:.3f}" for a, v in zip(made["accuracy"], made["violation"], strict=True))
            print(f"{setting.name}, {name}, seed {seed}: {best} in {made['cpu_s']:.1f} s", flush=True)
        budget = record["cpu_s"] if name == HYBRID else budget
        records.append(record)
    return records


class Kept:
    """Finished runs as JSON lines, each under the hash of what it is and of the code that made it."""

    def __init__(self, path: Path) -> None:
        self._path, self._code = path, (_code(RIVALS), _code((*RIVALS, "hybrid")))
        lines = path.read_text().splitlines() if path.is_file() else []
        self._records: dict[str, Record] = {record["key"]: record for record in map(json.loads, lines)}

    def get(self, what: Record) -> Record | None:
        """The run, if it has been made."""
        return self._records.get(self._key(what))

    def put(self, what: Record, record: Record) -> Record:
        """Keep a run, on disk at once."""
        kept = {"key": self._key(what), **record}
        self._records[kept["key"]] = kept
        with self._path.open("a") as file:
            file.write(json.dumps(kept) + "\n")
        return kept

    def _key(self, what: Record) -> str:
        code = self._code[what["method"] == HYBRID]
        return hashlib.sha256(json.dumps([what, code], sort_keys=True).encode()).hexdigest()[:24]


def _code(names: tuple[str, ...]) -> str:
    paths = [ROOT / "benchmarks" / "requirements" / f"{name}.py" for name in names]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


if __name__ == "__main__":
    main()
