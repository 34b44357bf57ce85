"""The tables and the plot of the headline experiment, from its records alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("agg")
from matplotlib import pyplot as plt

BASELINES = ("sgd", "sgd-lrs", "adam", "adam-lrs")
"""The paper's four."""
HYBRIDS = ("hybrid", "hybrid-lbfgs")
COLUMNS = 4
CLOSE = 1.01
"""Within 1 % of a value."""
SOLVED = 1e-6
"""An error below this share of the first epoch's is none: both sides are within float32's noise there."""

Record = dict[str, Any]
Array = NDArray[np.float64]


def tables(once: Sequence[Record], again: Sequence[Record]) -> str:
    """All tables as Markdown; of methods that took part."""
    names = list(dict.fromkeys(entry["task"] for entry in once))
    hybrids = [name for name in HYBRIDS if _of(once, name)]
    longest = [*again, *(entry for name in hybrids for entry in _of(once, name))]
    parts = [
        f"Test MSE, mean over seeds ({_seeds(once, names)}); each method one run per seed, until stalled for good\n",
        _errors(once, names),
        "\nTest MSE, restarts for as long as the hybrid took; of L-BFGS for the CPU time of the dearer hybrid\n",
        _errors(longest, names),
        *(part for name in hybrids for part in (f"\nSeconds of {name}{_TO_WHEN}\n", _times(once, names, name))),
        "\nNever worse: seeds on which the hybrid's final validation error is above ...\n",
        _never_worse(once, names),
    ]
    return "\n".join(parts) + "\n"


_TO_WHEN = " until within 1 % of the best baseline's final error (mean curve over seeds)"


def _seeds(records: Sequence[Record], names: Sequence[str]) -> str:
    numbers = [len({entry["seed"] for entry in records if entry["task"] == name}) for name in names]
    return " or ".join(map(str, sorted(set(numbers), reverse=True)))


def _of(records: Sequence[Record], method: str, task: str | None = None) -> list[Record]:
    return [entry for entry in records if entry["method"] == method and task in (None, entry["task"])]


def _mean(records: Sequence[Record], method: str, task: str, field: str = "test") -> float:
    return float(np.mean([entry[field] for entry in _of(records, method, task)]))


def _spread(records: Sequence[Record], method: str, task: str) -> float:
    return float(np.std([entry["test"] for entry in _of(records, method, task)]))


def best_baseline(records: Sequence[Record], task: str) -> str:
    """The paper's baseline with the lowest mean test error on a task."""
    return min((name for name in BASELINES if _of(records, name)), key=lambda name: _mean(records, name, task))


def _errors(records: Sequence[Record], names: Sequence[str]) -> str:
    methods = list(dict.fromkeys(entry["method"] for entry in records))
    hybrids = [name for name in HYBRIDS if name in methods]
    rows, gains = [], []
    for task in names:
        means = {method: _mean(records, method, task) for method in methods}
        best = means[best_baseline(records, task)]
        gains.append([1 - means[name] / best for name in hybrids])
        wide = [f"{mean:.3g} ± {_spread(records, name, task):.2g}" for name, mean in means.items()]
        rows.append([task, *wide, *(f"{100 * gain:.1f} %" for gain in gains[-1])])
    rows.append(["mean", *[""] * len(methods), *(f"{100 * gain:.1f} %" for gain in np.mean(gains, axis=0))])
    return _table(["task", *methods, *(f"{name} lower by" for name in hybrids)], rows)


def mean_curve(records: Sequence[Record]) -> tuple[Array, Array]:
    """Times, and the mean over runs of the best selection error up to then; before a run's first epoch, that of it."""
    grid = np.unique([point[0] for entry in records for point in entry["curve"]])
    return grid, np.mean([_best_so_far(entry, grid) for entry in records], axis=0)


def _best_so_far(entry: Record, grid: Array) -> Array:
    times, scores = np.array(entry["curve"]).T
    best = np.minimum.accumulate(scores)
    return np.asarray(best[np.clip(np.searchsorted(times, grid, side="right") - 1, 0, None)])


def first_time(grid: Array, values: Array, goal: float) -> float:
    """The first time at which values are at or below the goal; infinite if they never are."""
    reached = np.flatnonzero(values <= goal)
    return float(grid[reached[0]]) if reached.size else float("inf")


def _goal(final: float, entries: Sequence[Record]) -> float:
    first = float(np.mean([entry["curve"][0][1] for entry in entries]))
    return max(CLOSE * final, SOLVED * first)


def times(once: Sequence[Record], task: str, hybrid: str = "hybrid") -> tuple[str, float, float]:
    """The best baseline of a task, when its mean curve is within 1 % of its own end, and when the hybrid's is."""
    rival = best_baseline(once, task)
    theirs, ours = _of(once, rival, task), _of(once, hybrid, task)
    grid, values = mean_curve(theirs)
    goal = _goal(float(values[-1]), theirs)
    return rival, first_time(grid, values, goal), first_time(*mean_curve(ours), goal)


def seed_times(once: Sequence[Record], task: str, hybrid: str = "hybrid") -> list[tuple[float, float]]:
    """The same for every seed alone: (baseline, hybrid), against that seed's own final error."""
    rival = best_baseline(once, task)
    found = []
    for theirs, ours in zip(_of(once, rival, task), _of(once, hybrid, task), strict=True):
        goal = _goal(min(score for _, score in theirs["curve"]), [theirs])
        found.append((first_time(*mean_curve([theirs]), goal), first_time(*mean_curve([ours]), goal)))
    return found


def _times(once: Sequence[Record], names: Sequence[str], name: str) -> str:
    rows, shares = [], []
    for task in names:
        rival, baseline, hybrid = times(once, task, name)
        shares.append(1 - hybrid / baseline)
        each = seed_times(once, task, name)
        shorter = sorted(1 - ours / theirs for theirs, ours in each)
        spread = " / ".join(map(_share, (shorter[0], statistics.median(shorter), shorter[-1])))
        sooner = sum(ours < theirs for theirs, ours in each)
        seconds = "never" if np.isinf(hybrid) else f"{hybrid:.2f}"
        rows.append([task, rival, f"{baseline:.2f}", seconds, _share(shares[-1]), spread, f"{sooner} of {len(each)}"])
    rows.append(["mean", "", "", "", _share(float(np.mean(shares))), "", ""])
    spread_head = "per seed: min / median / max"
    heads = ["task", "best baseline", "its s", f"{name} s", "shorter by", spread_head, "seeds sooner"]
    return _table(heads, rows)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else "never"


def _never_worse(once: Sequence[Record], names: Sequence[str]) -> str:
    rows = []
    for task in names:
        ours = _of(once, "hybrid", task)
        begun = [entry for entry in ours if entry["validation_at_first_answer"] is not None]
        at_start = sum(entry["validation"] > entry["validation_at_first_answer"] for entry in begun)
        twins = _of(once, "adam", task)
        above = sum(mine["validation"] > twin["validation"] for mine, twin in zip(ours, twins, strict=True))
        rows.append([task, f"{at_start} of {len(begun)}", f"{above} of {len(ours)}"])
    return _table(["task", "its own at its first answer", "adam's with the same seed, after all of its run"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_plot(once: Sequence[Record], path: Path) -> None:
    """Mean curves of all methods, four tasks in a row."""
    names = list(dict.fromkeys(entry["task"] for entry in once))
    lines = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(14, 3.4 * lines), squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.set_visible(place < len(names))
    for task, axis in zip(names, axes.flat, strict=False):
        for method in dict.fromkeys(entry["method"] for entry in once):
            grid, values = mean_curve(_of(once, method, task))
            axis.step(grid, values.clip(1e-8), where="post", label=method, linewidth=2 if method in HYBRIDS else 1)
        axis.set(xscale="log", yscale="log", title=task, xlabel="seconds of training", ylabel="mean selection MSE")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
