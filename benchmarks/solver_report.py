"""Tables and plots from the records of `benchmarks/solver.py`."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

Record = dict[str, Any]
EARLY_S = 5.0
CLOSE = 0.01
"""A run is at its goal within one per cent of the best value that any run found."""


def value_at(record: Record, seconds: float) -> float:
    """The best recomputed objective that a run had by then; the snapshot's own before its first incumbent."""
    values = [value for t, value, _ in record["points"] if t <= seconds]
    return float(min(values, default=record["start"]))


def bound_of(record: Record) -> float:
    """The best bound of a run."""
    return float(max((bound for _, _, bound in record["points"]), default=0.0))


def gap_of(record: Record) -> float:
    """(value - bound) / value at the end of a run."""
    value, bound = value_at(record, np.inf), bound_of(record)
    return 0.0 if value <= bound else (value - bound) / value


def time_to(record: Record, value: float) -> float:
    """Seconds until a run was as good as this value; infinite if it never was."""
    return float(min((t for t, found, _ in record["points"] if found <= value + 1e-9), default=np.inf))


def primal_integral(record: Record, best: float) -> float:
    """The mean relative distance from the best known value over the time limit (Berthold, 2013)."""
    limit = record["time_s"]
    times = [0.0, *(min(t, limit) for t, _, _ in record["points"]), limit]
    values = [record["start"], *(value for _, value, _ in record["points"])]
    total = 0.0
    for begin, end, value in zip(times[:-1], times[1:], values, strict=True):
        total += (end - begin) * ((value - best) / value if value > 0 else 0.0)
    return float(total / limit)


def best_values(records: list[Record]) -> dict[str, float]:
    """The best value of any run on each snapshot."""
    names = {record["snapshot"] for record in records}
    return {n: min(value_at(r, np.inf) for r in records if r["snapshot"] == n) for n in names}


def table(records: list[Record]) -> str:
    """A Markdown table: one line per snapshot, method and limit, over the seeds (median, worst in brackets)."""
    best = best_values(records)
    lines = [
        "| snapshot | objective | method | limit s | seeds | start | value after 5 s | value at the end | claimed "
        "| bound | gap | seconds | proven | primal integral | building s | peak MB |",
        "|" + "---|" * 16,
    ]
    for (name, method, limit), group in groupby(sorted(records, key=_place), key=_place):
        runs = list(group)

        def cell(read: Callable[[Record], float], runs: list[Record] = runs) -> str:
            values = [read(record) for record in runs]
            worst = f" ({max(values):.5g})" if len(values) > 1 else ""
            return f"{float(np.median(values)):.5g}{worst}"

        cells = [
            name,
            runs[0]["objective"],
            method,
            f"{limit:g}",
            str(len(runs)),
            f"{runs[0]['start']:.5g}",
            cell(lambda r: value_at(r, EARLY_S)),
            cell(lambda r: value_at(r, np.inf)),
            _claims(runs),
            f"{float(np.median([bound_of(r) for r in runs])):.5g}",
            cell(gap_of),
            cell(lambda r: r["seconds"]),
            f"{sum(r['proven'] for r in runs)}/{len(runs)}",
            cell(lambda r: primal_integral(r, best[r["snapshot"]])),
            cell(lambda r: r["build_s"]),
            f"{max(r['peak_mb'] for r in runs):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _claims(runs: list[Record]) -> str:
    """A peer's own word, which rounding to float32 spoils where solutions sit on the margin."""
    claims = [run["claimed"] for run in runs if run.get("claimed") is not None]
    return f"{float(np.median(claims)):.5g}" if claims else ""


def _place(record: Record) -> tuple[str, str, float]:
    return record["snapshot"], record["method"], record["time_s"]


def write_plots(records: list[Record], folder: Path) -> None:
    """Performance profile of the time to the goal, and primal integrals; of the longest limit's runs alone."""
    best = best_values(records)
    limits = {name: max(r["time_s"] for r in records if r["snapshot"] == name) for name in best}
    records = [record for record in records if record["time_s"] == limits[record["snapshot"]]]
    methods = sorted({record["method"] for record in records})
    _profile(records, best, methods, folder / "performance-profile.png")
    _integrals(records, best, methods, folder / "primal-integral.png")


def _per_method(
    records: list[Record], methods: list[str], read: Callable[[Record], float]
) -> dict[str, dict[str, float]]:
    """Method -> snapshot -> the median over its runs."""
    found: dict[str, dict[str, float]] = {method: {} for method in methods}
    for (name, method), group in groupby(sorted(records, key=_place), key=lambda r: (r["snapshot"], r["method"])):
        found[method][name] = float(np.median([read(record) for record in group]))
    return found


def _profile(records: list[Record], best: dict[str, float], methods: list[str], path: Path) -> None:
    """Dolan and More (2002): the share of snapshots on which a method is within a factor of the fastest."""

    def seconds(record: Record) -> float:
        return time_to(record, best[record["snapshot"]] * (1 + CLOSE))

    times = _per_method(records, methods, seconds)
    figure, axes = plt.subplots(figsize=(6, 4))
    factors = np.logspace(0, 4, 400)
    for method in methods:
        ratios = np.array([_ratio(times, method, name) for name in best])
        axes.step(factors, [(ratios <= factor).mean() for factor in factors], where="post", label=method)
    axes.set(xscale="log", xlabel="times the fastest", ylabel="share of snapshots", ylim=(0, 1.03))
    axes.set_title("Time to within 1 % of the best known value")
    axes.legend()
    _save(figure, path)


def _ratio(times: dict[str, dict[str, float]], method: str, name: str) -> float:
    mine = times[method].get(name, np.inf)
    return mine / min(found.get(name, np.inf) for found in times.values()) if np.isfinite(mine) else np.inf


def _integrals(records: list[Record], best: dict[str, float], methods: list[str], path: Path) -> None:
    found = _per_method(records, methods, lambda record: primal_integral(record, best[record["snapshot"]]))
    names = sorted(best)
    figure, axes = plt.subplots(figsize=(8, 4))
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        heights = [100 * found[method].get(name, np.nan) for name in names]
        axes.bar(np.arange(len(names)) + index * width, heights, width, label=method)
    axes.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=25, ha="right", fontsize=8)
    axes.set(yscale="symlog", ylabel="primal integral, % of the limit")
    axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
