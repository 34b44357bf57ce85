"""The pictures of a comparison: how the metric went over time, and how GD and the solver overlapped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainer.journal import ENDS
from trainer.lab.runs import Run

Floats = NDArray[np.float64]
GD, SOLVER = "tab:blue", "tab:orange"


def draw_all(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw `metric.png` and, if anything was tunnelled, `timeline.png`; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [_save(metric_figure(runs), folder / "metric.png")]
    tunnelled = [run for run in runs if run.summary is not None]
    if tunnelled:
        written.append(_save(timeline_figure(tunnelled), folder / "timeline.png"))
    return written


def metric_figure(runs: Sequence[Run]) -> Figure:
    """The best selection metric so far against time: a line for a method's mean over seeds, and a band for all seeds.

    Stars are adopted tunnels, on the mean of the method that adopted them; its line is thick, and behind the others.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    until = max(run.seconds for run in runs)
    for place, name in enumerate(dict.fromkeys(run.method for run in runs)):
        mine = [run for run in runs if run.method == name]
        times, scores = over_seeds(mine, until)
        colour, tunnelled = f"C{place}", any(run.summary for run in mine)
        mean = scores.mean(axis=0)
        axes.fill_between(times, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        axes.plot(times, mean, color=colour, linewidth=2.4 if tunnelled else 1.4, label=name, zorder=4 - tunnelled)
        stars = np.array([event.t_s for run in mine for event in run.events if event.kind == "adopted"])
        if len(stars):
            heights = np.interp(stars, times, mean)
            axes.plot(stars, heights, "*", color=colour, markersize=11, markeredgecolor="black", zorder=5,
                      label="adopted tunnel")  # fmt: skip
    seeds = len({run.seed for run in runs})
    axes.set(
        xlabel="seconds since the run began",
        ylabel=f"best {runs[0].metric} so far, on selection data",
        title=f"{runs[0].task}: mean of {seeds} seeds, band from the worst to the best" if seeds > 1 else runs[0].task,
    )
    _scale(axes, runs)
    axes.legend()
    return figure


def over_seeds(runs: Sequence[Run], until: float) -> tuple[Floats, Floats]:
    """Points in time [p] and each run's best selection metric until then [runs, p]; it keeps its last when it ends.

    Time begins when every run has a score.
    """
    curves = [_best_so_far(run) for run in runs]
    begin = max(times[0] for times, _ in curves)
    points = np.unique(np.concatenate([[begin, until], *(times for times, _ in curves)]))
    points = points[(points >= begin) & (points <= until)]
    # A step function: the value at a point is that of the last epoch before it.
    return points, np.array([scores[np.searchsorted(times, points, side="right") - 1] for times, scores in curves])


def _best_so_far(run: Run) -> tuple[Floats, Floats]:
    """When a run's epochs ended, and the best score until then; the last tunnel's score comes at the end."""
    pairs = [(epoch.ended_s, epoch.score) for epoch in run.epochs] + [(run.seconds, run.selection)]
    times, scores = np.array(sorted(pairs)).T
    best = np.fmax.accumulate(scores) if run.metric == "accuracy" else np.fmin.accumulate(scores)
    if run.polished:
        best[-1] = run.selection  # judged on validation, too: it may be a little lower here
    return times, best


def _scale(axes: Axes, runs: Sequence[Run]) -> None:
    """Errors over several orders of magnitude on a logarithmic axis; of accuracies the upper part."""
    scores = sorted(epoch.score for run in runs for epoch in run.epochs)
    if runs[0].metric != "accuracy":
        axes.set_xscale("log")  # plain GD's long end would press the tunnels against the axis
        axes.set_yscale("log")
    elif scores:
        axes.set_ylim(bottom=scores[len(scores) // 20] - 0.02)  # the first epochs would flatten all the others


def timeline_figure(runs: Sequence[Run]) -> Figure:
    """Per seed a bar of GD's epochs and one of the solver's jobs: where they lie side by side, nobody waited."""
    figure = Figure(figsize=(9, 1.4 + 0.9 * len(runs)), layout="constrained")
    axes = figure.add_subplot()
    labels: list[tuple[float, str]] = []
    for place, run in enumerate(runs):
        base = 2.5 * place
        gd = [(epoch.begun_s, epoch.ended_s - epoch.begun_s) for epoch in run.epochs]
        axes.broken_barh(gd, (base + 1.0, 0.9), facecolors=GD, label="GD" if place == 0 else None)
        jobs = job_spans(run)
        axes.broken_barh(
            [(begun, ended - begun) for begun, ended in jobs], (base, 0.9), facecolors=SOLVER,
            edgecolor="black", linewidth=0.5, label="solver job" if place == 0 else None,
        )  # fmt: skip
        for event in run.events:
            if event.kind == "adopted":
                axes.plot(event.t_s, base + 0.95, marker="*", markersize=13, color="gold", markeredgecolor="black")
        labels += [(base + 1.45, f"seed {run.seed} GD"), (base + 0.45, "solver")]
    axes.set_yticks([at for at, _ in labels], [label for _, label in labels])
    axes.set(xlabel="seconds", title=f"{runs[0].task} {runs[0].method}: stars are adoptions")
    axes.legend(loc="upper right")
    return figure


def job_spans(run: Run) -> list[tuple[float, float]]:
    """When each job was out, from its submission to its answer (or its end), in seconds since the run began."""
    spans = []
    for event in run.events:
        if event.kind == "submitted":
            ends = [end.t_s for end in run.events if end.job == event.job and end.kind in ENDS]
            spans.append((event.t_s, min(ends) if ends else run.seconds))
    return spans


def _save(figure: Figure, path: Path) -> Path:
    """Write a PNG without a display, and without touching the user's matplotlib state."""
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)
    return path
