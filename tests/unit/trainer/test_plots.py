"""The plots of a comparison: means and bands over seeds, and tunnels on the line of the method that adopted them."""

import dataclasses

import numpy as np
import pytest

from tests.unit.trainer.test_report import RUNS, a_run
from trainer.lab.plots import metric_figure, over_seeds
from trainer.lab.runs import Epoch


def test_runs_of_different_lengths_are_put_on_one_time_line() -> None:
    """Each run keeps its best so far, also after its end; time begins when all have a score."""
    short = a_run("adam", 0, 0.8, seconds=1.5, selection=0.7)
    epochs = (Epoch(1, 0.0, 0.5, 0.3, False), Epoch(2, 0.5, 3.0, 0.2, False), Epoch(3, 3.0, 4.0, 0.9, False))
    long = a_run("adam", 1, 0.8, epochs=epochs, seconds=4.0, selection=0.9)
    times, scores = over_seeds([dataclasses.replace(short, epochs=short.epochs[:1]), long], until=5.0)
    assert list(times) == [1.0, 1.5, 3.0, 4.0, 5.0]
    assert np.allclose(scores, [[0.5, 0.7, 0.7, 0.7, 0.7], [0.3, 0.3, 0.3, 0.9, 0.9]])


def test_an_error_is_best_when_it_is_lowest() -> None:
    """For mse the best so far goes down, and a diverged epoch does not count."""
    epochs = (Epoch(1, 0.0, 1.0, 2.0, False), Epoch(2, 1.0, 2.0, float("nan"), False), Epoch(3, 2.0, 3.0, 1.0, False))
    run = a_run("adam", 0, 1.0, metric="mse", epochs=epochs, seconds=3.5, selection=1.0)
    assert list(over_seeds([run], until=3.5)[1][0]) == [2.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_there_is_a_line_and_a_band_for_each_method(metric: str) -> None:
    """Two methods make two lines and two bands, however many seeds; stars are the hybrid's adoptions."""
    figure = metric_figure([dataclasses.replace(run, metric=metric) for run in RUNS])
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"adam", "hybrid", "adopted tunnel"}
    assert len(axes.collections) == 2
    assert np.allclose(np.asarray(lines["adopted tunnel"].get_xdata()), [2.1, 2.1])
