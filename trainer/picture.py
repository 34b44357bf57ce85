"""Draws a tunneller's story on one page: what each stall gained, in which layer, and where the time went."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer import story
from trainer.events import Event, Summary
from trainer.journal import ENDS

LAYER = re.compile(r"layer '(.*)', radius")
"""In the detail of a job that was submitted."""
UNKNOWN = "no job"
DECLINED = "tab:gray"


def draw(events: Sequence[Event], summary: Summary, mode: Literal["min", "max"], path: str | Path) -> Path:
    """Write the picture, without a display and without touching the user's matplotlib state.

    The path's ending says the format. ValueError for one that matplotlib does not know.
    """
    target = Path(path)
    figure = picture(events, summary, mode)
    FigureCanvasAgg(figure)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def picture(events: Sequence[Event], summary: Summary, mode: Literal["min", "max"]) -> Figure:
    """The gain of each stall, the jobs over time, and the seconds that went to each thing."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    gains, jobs, times = figure.subplots(3, 1, height_ratios=[3, 3, 2])
    first, *_ = str(summary).splitlines()
    hint = f"hint: {summary.advice}" if summary.advice else ""
    figure.suptitle("\n".join([first, *textwrap.wrap(hint, 100)]), fontsize=11)
    layers = {event.stall: _layer(event) for event in events if event.kind == "submitted"}
    names = list(dict.fromkeys(layers.values()))
    colours = {name: f"C{number % 10}" for number, name in enumerate(names)}
    _draw_gains(gains, events, layers, colours, mode)
    _draw_jobs(jobs, events, layers, colours)
    _draw_times(times, events, summary)
    return figure


def _layer(submitted: Event) -> str:
    found = LAYER.search(submitted.detail or "")
    return found[1] if found else UNKNOWN


def _draw_gains(
    axes: Axes, events: Sequence[Event], layers: dict[int, str], colours: dict[str, str], mode: Literal["min", "max"]
) -> None:
    """A bar for each stall with an adoption, coloured by layer; a cross for each without."""
    by_stall: dict[int, list[Event]] = {}
    for event in events:
        by_stall.setdefault(event.stall, []).append(event)
    helped = {number: mine for number, mine in by_stall.items() if story.standing(mine)}
    # One call for all of them: in a long run there are thousands.
    axes.bar(
        list(helped),
        [story.gained(mine, mode) for mine in helped.values()],
        color=[colours.get(layers.get(number, UNKNOWN), DECLINED) for number in helped],
    )
    if vain := [number for number in by_stall if number not in helped]:
        axes.plot(vain, [0.0] * len(vain), "x", color=DECLINED, clip_on=False)
    for name, colour in colours.items():
        axes.bar(0, 0, color=colour, label=f"layer {name}")
    axes.plot([], [], "x", color=DECLINED, label="nothing adopted")
    if last := [event.stall for event in events if event.kind == "polish"]:
        axes.axvspan(min(last) - 0.5, max(last) + 0.5, color="gold", alpha=0.2, label="last tunnel, after training")
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set(xlabel="stall", ylabel="gain on validation", title="what each stall gained")
    axes.set_xlim(0.4, max(by_stall, default=0) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=9)


def _draw_jobs(axes: Axes, events: Sequence[Event], layers: dict[int, str], colours: dict[str, str]) -> None:
    """A line for each job from its post to its end, at the height of its stall; a star where it was adopted."""
    if out := spans(events):
        stalls, begun, ended = zip(*out, strict=True)
        lasted = [end - begin for begin, end in zip(begun, ended, strict=True)]
        colour = [colours.get(layers.get(stall, UNKNOWN), DECLINED) for stall in stalls]
        axes.barh(stalls, lasted, left=begun, height=0.6, color=colour, alpha=0.5)
    adopted = [(event.t_s, event.stall) for event in story.standing(events)]
    if adopted:
        axes.plot(*zip(*adopted, strict=True), "*", color="gold", markersize=13, markeredgecolor="black",
                  label="adopted")  # fmt: skip
        axes.legend(fontsize=9)
    axes.set_xlim(left=0.0)
    axes.set(xlabel="seconds since the tunneller began", ylabel="stall", title="when jobs were out")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_times(axes: Axes, events: Sequence[Event], summary: Summary) -> None:
    """Seconds of the loop's own thread, and those in which jobs were out: training goes on meanwhile, unless `sync`."""
    spent = {
        "jobs being out": covered([(begun, ended) for _, begun, ended in spans(events)]),
        "passes over samples": summary.capture_s,
        "trying answers": summary.trial_s,
        "validation of answers": summary.validate_s,
        "keeping samples": summary.observe_s,
    }
    bars = axes.barh(list(spent), list(spent.values()), color=["tab:orange", *["tab:blue"] * (len(spent) - 1)])
    axes.bar_label(bars, [f" {seconds:.3g} s" for seconds in spent.values()])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="seconds", title="where the time went")


def spans(events: Sequence[Event]) -> list[tuple[int, float, float]]:
    """The stall of each job, and when it was out: from its post to its end, or to the last event."""
    until = max((event.t_s for event in events), default=0.0)
    ends = {event.job: event.t_s for event in reversed(events) if event.kind in ENDS}
    return [(event.stall, event.t_s, ends.get(event.job, until)) for event in events if event.kind == "submitted"]


def covered(pieces: Sequence[tuple[float, float]]) -> float:
    """How long at least one of these pieces of time lasted, in seconds."""
    total, until = 0.0, float("-inf")
    for begun, ended in sorted(pieces):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total
