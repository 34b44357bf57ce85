"""The pictures of a comparison: how the metric went over time, and how GD and the solver overlapped."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.journal import ENDS
from trainer.lab.runs import Run

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
    """The selection metric against time, one colour per method, one line per seed, every adopted tunnel marked."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    colours = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(run.method for run in runs))}
    for name, colour in colours.items():
        for place, run in enumerate(run for run in runs if run.method == name):
            times, scores = [epoch.ended_s for epoch in run.epochs], [epoch.score for epoch in run.epochs]
            # The tunnelled runs in front, plain GD's many lines behind them.
            alpha, width = (0.95, 1.8) if run.summary else (0.45, 1.0)
            label = name if place == 0 else None
            axes.plot(times, scores, color=colour, alpha=alpha, linewidth=width, label=label)
            _mark_tunnels(axes, run, colour)
    axes.set(xlabel="seconds", ylabel=f"selection {runs[0].metric}", title=f"{runs[0].task}: stars are adopted tunnels")
    if runs[0].metric == "mse":
        axes.set_yscale("log")
    else:
        scores = sorted(epoch.score for run in runs for epoch in run.epochs)
        axes.set_ylim(bottom=scores[len(scores) // 20] - 0.02)  # the first epochs would flatten all the others
    axes.legend()
    return figure


def _mark_tunnels(axes: Axes, run: Run, colour: str) -> None:
    """A star at each adoption: at its epoch's score, or, for the last tunnel after GD, at the final score."""
    scores = {epoch.number: epoch.score for epoch in run.epochs}
    for event in run.events:
        if event.kind == "adopted":
            polished = bool(run.epochs) and event.t_s > run.epochs[-1].ended_s + 1e-9 and not run.epochs[-1].adopted
            height = run.selection if polished else scores.get(event.step, run.selection)
            axes.plot(event.t_s, height, marker="*", markersize=13, color=colour, markeredgecolor="black")


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
