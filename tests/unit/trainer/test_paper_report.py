"""How the headline experiment reads its curves."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.headline.paper_report import (
    BASELINES,
    HYBRIDS,
    best_baseline,
    first_time,
    mean_curve,
    seed_times,
    tables,
    times,
)
from tests.conftest import ROOT


def record(method: str, seed: int, test: float, curve: list[tuple[float, float]]) -> dict[str, object]:
    fields = {"selection": test, "validation": test, "seconds": curve[-1][0], "validation_at_first_answer": 1.0}
    return {"task": "t", "method": method, "seed": seed, "test": test, "curve": curve} | fields


RUNS = [
    record("adam", 0, 0.5, [(1, 1.0), (2, 0.5), (3, 0.6)]),
    record("adam", 1, 0.1, [(1, 0.9), (4, 0.1)]),
    record("hybrid", 0, 0.1, [(1, 1.0), (1.5, 0.1)]),
    record("hybrid", 1, 0.1, [(1, 0.9), (2.5, 0.1)]),
]


def test_mean_curves_are_of_the_best_so_far() -> None:
    """A run that has ended keeps its best; a run that has not begun stands at its first epoch."""
    grid, values = mean_curve(RUNS[:2])
    np.testing.assert_allclose(grid, [1, 2, 3, 4])
    np.testing.assert_allclose(values, [0.95, 0.7, 0.7, 0.3])


def test_times_are_to_within_a_hundredth_of_the_best_baseline() -> None:
    """For the means over seeds, and for every seed against its own."""
    assert times(RUNS, "t") == ("adam", 4.0, 2.5)
    assert seed_times(RUNS, "t") == [(2.0, 1.5), (4.0, 2.5)]
    assert first_time(np.array([1.0]), np.array([1.0]), 0.5) == float("inf")


def test_the_tables_say_what_was_gained() -> None:
    """0.1 against 0.3 is two thirds lower, and 2.5 s against 4 s is 38 % shorter."""
    text = tables(RUNS, [dict(entry, runs=2) for entry in RUNS[:2]])
    assert "| mean |  |  | 66.7 % |" in text
    assert "38 %" in text
    assert pytest.approx(1 - 2.5 / 4) == 0.375


def test_every_hybrid_is_held_against_the_papers_baselines_alone() -> None:
    """L-BFGS has a column of its own, and is not the paper's best baseline."""
    others = [record(name, 0, 0.05, [(1, 1.0), (2, 0.05)]) for name in ("lbfgs", "hybrid-lbfgs")]
    once = [RUNS[0], others[0], RUNS[2], others[1]]
    text = tables(once, [dict(RUNS[0], runs=2), dict(others[0], runs=3)])
    assert best_baseline(once, "t") == "adam"
    assert "| t | 0.5 ± 0 | 0.05 ± 0 | 0.1 ± 0 | 0.05 ± 0 | 80.0 % | 90.0 % |" in text
    assert "| t | adam | 2.00 | 2.00 | 0 % |" in text


def test_the_pages_say_what_was_measured() -> None:
    """Every table of the committed results stands in the docs as it is, and the README rounds it to two digits."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "headline.json").read_text())
    once, again = measured["runs"], measured["restarts"]
    told = [part.strip() for part in tables(once, again).split("\n\n") if part.startswith("|")]
    page, front = ((ROOT / name).read_text() for name in ("docs/trainer/measured.md", "README.md"))
    assert len(told) == 5
    for table in told:
        assert table in page
    lines = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in front.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if len(cells) == 6}
    for task in dict.fromkeys(entry["task"] for entry in once):
        longest = {name: mean(again, name, task) for name in (*BASELINES, "lbfgs")}
        best, rested = mean(once, best_baseline(once, task), task), min(longest[name] for name in BASELINES)
        values = [best, rested, longest["lbfgs"], *(mean(once, name, task) for name in HYBRIDS)]
        assert rows[task.removeprefix("uci:")] == [f"{value:.2g}" for value in values]


def mean(records: list[dict[str, Any]], method: str, task: str) -> float:
    found = [entry["test"] for entry in records if entry["method"] == method and entry["task"] == task]
    return float(np.mean(found))
