"""One picture of the headline experiment: every method on every case, with its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from benchmarks.headline.significance import interval
from benchmarks.headline.tables import OURS, higher_is_better, names, ranked, values


def write_plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each case: test metric from left to right, the best method on top, hybrids in colour."""
    cases = names(records, "case")
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(cases) :]:
        axis.set_axis_off()
    for case, axis in zip(cases, axes.flat, strict=False):
        methods = ranked(records, case)[::-1]
        for place, method in enumerate(methods):
            found = interval(values(records, case, method))
            colour = "tab:red" if method in OURS else "tab:grey"
            axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2)
            axis.plot(found.mean, place, "o", color=colour, markersize=5)
        accuracy = higher_is_better(records, case)
        axis.set(title=case, xlabel="test accuracy" if accuracy else "test MSE", xscale="linear" if accuracy else "log")
        if not accuracy:
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_yticks(range(len(methods)), methods, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
