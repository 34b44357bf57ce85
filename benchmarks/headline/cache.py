"""Finished runs as JSON lines, each under the hash of all that it depends on: a run is made once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.headline.matrix import Plan

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINER = ("shared", "trainer", "benchmarks/headline")
SOLVER = ("shared", "solver_service", "benchmarks")
SHOWS = ("trainer/lab/commands", "trainer/lab/plots.py", "trainer/lab/report.py", "trainer/adapters")
"""Parts of the trainer that no run depends on; of this experiment itself, only how runs are made counts."""
RUNS = ("benchmarks/headline/run.py", "benchmarks/headline/pool.py", "benchmarks/headline/worker.py")
Record = dict[str, Any]


def version(folders: Sequence[str], root: Path = ROOT) -> str:
    """A hash of the Python files in some folders, as far as runs depend on them."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(SHOWS) or (name.startswith("benchmarks/headline/") and name not in RUNS):
            continue
        if name.startswith("benchmarks/") and not name.startswith(("benchmarks/headline/", "benchmarks/rivals_")):
            continue
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Cache:
    """The runs of one file, by key. Every new one is appended at once, so that an interruption costs one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trainer, self._solver = version(TRAINER), version(SOLVER)
        self._kept: dict[str, Record] = {}
        if path.is_file():
            self._kept = {record["key"]: record for record in map(json.loads, path.read_text().splitlines())}

    def key(self, plan: Plan, budget: str | None) -> str:
        """The hash of a plan, the code that it runs, and the run that its budget comes from."""
        code = [self._trainer, *([self._solver] if plan.is_hybrid else [])]
        content = {"plan": plan.content(), "code": code, "budget": budget}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def get(self, key: str) -> Record | None:
        """The run of a key, if it has been made."""
        return self._kept.get(key)

    def put(self, key: str, record: Record) -> Record:
        """Keep a run, on disk at once."""
        kept = {"key": key, **record}
        self._kept[key] = kept
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:  # several processes do: a line is one write
            file.write(json.dumps(kept) + "\n")
        return kept

    def forget_all_but(self, keys: Sequence[str]) -> None:
        """Rewrite the file with these runs alone: what other code has made is no result of this."""
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        self._path.write_text("".join(json.dumps(record) + "\n" for record in self._kept.values()))
