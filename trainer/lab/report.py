"""Turns finished runs into figures: a summary per method, a table, and JSON of everything."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from trainer.lab.runs import Run

PACKAGES = ("gdsolver", "torch", "numpy", "scikit-learn", "httpx")


@dataclass(frozen=True)
class MethodSummary:
    """One method over all seeds: mean and sample standard deviation of the metric, and what the solver did for it."""

    method: str
    metric: str
    seeds: tuple[int, ...]
    test_mean: float
    test_std: float
    selection_mean: float
    seconds_mean: float
    gd_steps: int
    jobs: int
    adopted: int
    gd_steps_during_jobs: int
    longest_step_ms: float | None
    pool_lost: bool


def summarise(runs: Sequence[Run]) -> list[MethodSummary]:
    """One summary per method, in the order of the runs."""
    return [_summary([run for run in runs if run.method == name]) for name in dict.fromkeys(run.method for run in runs)]


def _summary(runs: list[Run]) -> MethodSummary:
    tests = [run.test for run in runs]
    tunnels = [run.summary for run in runs if run.summary]
    return MethodSummary(
        method=runs[0].method,
        metric=runs[0].metric,
        seeds=tuple(run.seed for run in runs),
        test_mean=statistics.fmean(tests),
        test_std=statistics.stdev(tests) if len(tests) > 1 else 0.0,
        selection_mean=statistics.fmean(run.selection for run in runs),
        seconds_mean=statistics.fmean(run.seconds for run in runs),
        gd_steps=sum(run.gd_steps for run in runs),
        jobs=sum(tunnel.jobs for tunnel in tunnels),
        adopted=sum(tunnel.adopted for tunnel in tunnels),
        gd_steps_during_jobs=sum(tunnel.gd_steps_during_jobs for tunnel in tunnels),
        longest_step_ms=max((tunnel.longest_step_ms for tunnel in tunnels), default=None),
        pool_lost=any(run.pool_lost for run in runs),
    )


def table(summaries: Sequence[MethodSummary], title: str) -> Table:
    """The summaries as a table to print: means over seeds, sums for counts.

    `overlapped` are the GD steps that were done while a job was out.
    """
    found = Table(title=title)
    found.add_column("method", no_wrap=True)
    for heading in ("test", "selection", "seconds", "GD steps", "jobs", "adopted", "overlapped"):
        found.add_column(heading, justify="right", no_wrap=True)
    for row in summaries:
        spread = f" ± {_rounded(row.test_std)}" if len(row.seeds) > 1 else ""
        figures = [
            f"{_rounded(row.test_mean)}{spread}",
            _rounded(row.selection_mean),
            f"{row.seconds_mean:.1f}",
            f"{row.gd_steps:,}",
        ]
        tunnels = ["", "", ""]
        if row.longest_step_ms is not None:
            tunnels = [str(row.jobs), str(row.adopted), f"{row.gd_steps_during_jobs:,}"]
        found.add_row(row.method, *figures, *tunnels)
    return found


def _rounded(value: float) -> str:
    """Four decimals, or three digits of what they would hide."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def document(runs: Sequence[Run], command: dict[str, Any]) -> dict[str, Any]:
    """Everything as JSON values: the command's options, the summaries, every run with its epochs and events."""
    return {
        "command": command,
        "seeds": sorted({run.seed for run in runs}),
        "methods": [dataclasses.asdict(summary) for summary in summarise(runs)],
        "runs": [dataclasses.asdict(run) for run in runs],
        "pool_lost": any(run.pool_lost for run in runs),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, replacing the file in one step (a device is written into); infinities and NaN become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    if path.exists() and not path.is_file():
        path.write_text(text)
        return
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text)
    partial.replace(path)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {str(name): _finite(part) for name, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
