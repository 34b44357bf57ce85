"""What `benchmarks/rivals.py` says of its records: a row for every snapshot and time, ratios, a plot of histories."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]
SAME = 1e-6
"""Values that differ by less, relatively, are the same."""
TINY = 1e-12
"""What is added to both values of a ratio, so that two zeros are the same."""


@dataclass(frozen=True)
class Comparison:
    """One snapshot at one time. The job's value is its worst seed's, a rival's the median of its seeds'.

    inf stands for no weights that keep the constraints; `start` is None where the snapshot's own do not.
    """

    snapshot: str
    time_s: float
    start: float | None
    job: float
    recipe: float
    strongest: float
    strongest_name: str
    first_s: float | None
    late_s: float

    @property
    def ratios(self) -> tuple[float, float]:
        """The job's value over the recipe's and over the strongest rival's; below 1 the job is ahead."""
        return ratio(self.job, self.recipe), ratio(self.job, self.strongest)


def ratio(ours: float, theirs: float) -> float:
    """One value over another; 1 where neither has one."""
    if math.isinf(ours) or math.isinf(theirs):
        return 1.0 if ours == theirs else ours if math.isinf(ours) else 0.0
    return (ours + TINY) / (theirs + TINY)


def value_at(record: Record, time_s: float) -> float:
    """The best value of a record's history by then; a rival may overrun by the length of a step."""
    late = 0.05 + 0.02 * time_s
    return min((value for seconds, value in record["history"] if seconds <= time_s + late), default=math.inf)


def compare(records: list[Record], times: list[float]) -> list[Comparison]:
    """A row for every snapshot and time that the job has run for."""
    rows = []
    for snapshot in dict.fromkeys(record["snapshot"] for record in records):
        mine = [record for record in records if record["snapshot"] == snapshot]
        for time_s in times:
            jobs = [record for record in mine if record["method"] == "job" and record["time_s"] == time_s]
            if jobs:
                rows.append(_row(snapshot, time_s, jobs, [record for record in mine if record["method"] != "job"]))
    return rows


def table(rows: list[Comparison]) -> str:
    """The rows as markdown, and under it how often the job is ahead, in all."""
    head = (
        "snapshot",
        "s",
        "start",
        "job, worst seed",
        "recipe",
        "strongest",
        "which",
        "job / recipe",
        "job / strongest",
        "first better after s",
        "late s",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = (
            row.snapshot,
            f"{row.time_s:g}",
            "breaks it" if row.start is None else f"{row.start:.5g}",
            _value(row.job),
            _value(row.recipe),
            _value(row.strongest),
            row.strongest_name,
            *(f"{value:.3f}" for value in row.ratios),
            "" if row.first_s is None else f"{row.first_s:.2f}",
            f"{row.late_s:.2f}" if row.late_s > 0 else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_totals(rows), ""])


def all_rivals(records: list[Record], times: list[float]) -> str:
    """Every rival's median value after the longest time, as markdown, and the processor's share of the seconds."""
    rivals = [record for record in records if record["method"] != "job"]
    names = list(dict.fromkeys(record["method"] for record in rivals))
    lines = [f"| after {max(times):g} s | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for snapshot in dict.fromkeys(record["snapshot"] for record in rivals):
        mine = [record for record in rivals if record["snapshot"] == snapshot]
        values = _medians(mine, max(times))
        cells = [_value(values[name]) if name in values else "" for name in names]
        lines.append(f"| {snapshot} | {' | '.join(cells)} |")
    shares = [record["cpu_s"] / record["seconds"] for record in records if record.get("seconds")]
    share = f"Runs had the processor for {100 * median(shares):.0f} % of their seconds (median)." if shares else ""
    return "\n".join([*lines, "", share, ""])


def write_plot(records: list[Record], path: Path) -> None:
    """One panel a snapshot: the best value over time of the job's longest runs and of every rival, first seed."""
    import matplotlib as mpl  # noqa: PLC0415 - loaded for the plot alone

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    names = list(dict.fromkeys(record["snapshot"] for record in records))
    columns = min(4, len(names))
    height = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(height, columns, figsize=(4.2 * columns, 3.2 * height), squeeze=False)
    for axis in axes.ravel()[len(names) :]:
        axis.set_visible(False)
    methods = list(dict.fromkeys(record["method"] for record in records))
    for axis, name in zip(axes.ravel(), names, strict=False):
        for record in _first_seed(record for record in records if record["snapshot"] == name and record["history"]):
            seconds, values = zip(*_decreasing(record), strict=True)
            job = record["method"] == "job"
            color = "black" if job else f"C{methods.index(record['method'])}"
            label = None if job and record["time_s"] < max(r["time_s"] for r in records) else record["method"]
            axis.step(seconds, values, where="post", color=color, lw=1.8 if job else 1.0, label=label)
        axis.set(title=name, xscale="log", xlabel="seconds")
        axis.title.set_fontsize(9)
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _row(snapshot: str, time_s: float, jobs: list[Record], rivals: list[Record]) -> Comparison:
    by_name = _medians(rivals, time_s)
    strongest = min(by_name, key=lambda name: by_name[name], default="")
    firsts = [record.get("first_s") for record in jobs]
    known = [record for record in (*jobs, *rivals) if "start" in record]
    return Comparison(
        snapshot=snapshot,
        time_s=time_s,
        start=known[0]["start"] if known and known[0]["kept"] else None,
        job=max(math.inf if record["value"] is None else record["value"] for record in jobs),
        recipe=by_name.get("recipe", math.inf),
        strongest=by_name.get(strongest, math.inf),
        strongest_name=strongest if math.isfinite(by_name.get(strongest, math.inf)) else "",
        first_s=None if None in firsts else max(firsts),  # type: ignore[type-var]
        late_s=max(record.get("late_s", math.inf) for record in jobs),
    )


def _medians(rivals: list[Record], time_s: float) -> dict[str, float]:
    """Each rival's value at this time, the median of its seeds'."""
    return {
        name: median(value_at(record, time_s) for record in rivals if record["method"] == name)
        for name in dict.fromkeys(record["method"] for record in rivals)
    }


def _totals(rows: list[Comparison]) -> list[str]:
    lines = []
    for index, name in enumerate(("recipe", "strongest rival")):
        ratios = [row.ratios[index] for row in rows]
        behind = sum(value > 1 + SAME for value in ratios)
        finite = [value for value in ratios if 0 < value < math.inf]
        mean = math.exp(sum(map(math.log, finite)) / len(finite)) if finite else math.nan
        lines.append(
            f"Against the {name}: the job is behind in {behind} of {len(rows)} rows; "
            f"geometric mean of {len(finite)} finite ratios {mean:.3f}."
        )
    return [*lines, f"Late: {sum(row.late_s > 0 for row in rows)} of {len(rows)} rows."]


def _first_seed(records: Iterable[Record]) -> list[Record]:
    chosen = list(records)
    return [record for record in chosen if record["seed"] == min(r["seed"] for r in chosen)]


def _decreasing(record: Record) -> list[tuple[float, float]]:
    """The history as a falling staircase up to the end of the run."""
    best, stairs = math.inf, []
    for seconds, value in record["history"]:
        best = min(best, value)
        stairs.append((max(seconds, 1e-2), best))
    return [*stairs, (max(record["seconds"], 1e-2), best)]


def _value(value: float) -> str:
    return "none kept" if math.isinf(value) else f"{value:.5g}"
