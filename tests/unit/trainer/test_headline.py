"""The headline experiment: who gets which budget, what is run again, and what its tables say of wins and losses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.headline import cache as caches
from benchmarks.headline.cache import ROOT, Cache, version
from benchmarks.headline.matrix import FULL, QUICK, Plan, cases, plans
from benchmarks.headline.significance import interval, paired_p
from benchmarks.headline.tables import (
    ablation,
    best_baseline,
    document,
    main_table,
    markdown,
    marks,
    ranked,
    replaced,
    score_line,
    verdict,
)
from trainer.lab.methods import METHODS

SHORT_RUNS = ROOT / "benchmarks" / "results" / "headline" / "short" / "runs.jsonl"


def record(case: str, method: str, seed: int, test: float, metric: str = "mse") -> dict[str, Any]:
    cost = {"cpu_s": 1.0, "starts": 1, "adopted": 0}
    return {"case": case, "method": method, "seed": seed, "test": test, "metric": metric, **cost}


LOST = [
    record("table", method, seed, test + 0.01 * seed)
    for method, test in (("hybrid", 0.4), ("adam", 0.5), ("lbfgs", 0.2), ("restart", 0.1), ("hybrid, rival", 0.3))
    for seed in range(3)
]
WON = [
    record("digits", method, seed, test, "accuracy")
    for method, test in (("hybrid", 0.9), ("adam", 0.8), ("gce", 0.85))
    for seed in range(3)
]


# --- what is run ------------------------------------------------------------------------------------------------------


def test_every_case_has_a_hybrid_and_methods_that_there_are() -> None:
    """The hybrid's cost is the budget of the others, so that no case can do without it."""
    assert all(case.ours in case.methods and set(case.methods) <= set(METHODS) for case in FULL)
    assert {case.name for case in cases("quick")} == set(QUICK)


def test_the_hybrid_comes_first_and_is_not_repeated() -> None:
    """Of each case and seed; the ablation is of some cases only, and may be left out."""
    chosen = cases("quick", ("energy",))
    (hybrid, others), second = plans(chosen, 2)
    assert (hybrid.method, hybrid.seed, second[0].seed) == ("hybrid-lbfgs", 0, 1)
    assert [plan.label for plan in others][-2:] == ["hybrid-lbfgs, rival", "hybrid-lbfgs, heuristics"]
    assert "hybrid-lbfgs" not in [plan.label for plan in others]
    assert all(plan.solver == "everything" for _, them in plans(chosen, 1, ablation=False) for plan in them)
    assert [hybrid.seed for hybrid, _ in plans(chosen, 2, first=100)] == [100, 101]


# --- what is run again ------------------------------------------------------------------------------------------------


def test_a_run_is_kept_by_what_it_depends_on(tmp_path: Path) -> None:
    """Another seed, budget or solver is another run; which other methods the case has does not matter."""
    cache = Cache(tmp_path / "runs.jsonl")
    case, other = FULL[0], FULL[1]
    plan = Plan(case, "adam", 0)
    keys = [
        cache.key(plan, "a"),
        cache.key(plan, "b"),
        cache.key(Plan(case, "adam", 1), "a"),
        cache.key(Plan(other, "adam", 0), "a"),
        cache.key(Plan(case, "hybrid", 0), None),
        cache.key(Plan(case, "hybrid", 0, "rival"), None),
    ]
    assert len(set(keys)) == len(keys)
    cache.put(keys[0], {"test": 1.0})
    cache.put(keys[1], {"test": 2.0})
    assert Cache(tmp_path / "runs.jsonl").get(keys[0]) == {"key": keys[0], "test": 1.0}
    cache.forget_all_but([keys[1]])
    assert Cache(tmp_path / "runs.jsonl").get(keys[0]) is None


def test_a_version_changes_with_the_code_that_is_run_alone(tmp_path: Path) -> None:
    """A plot may change without making a run stale; the training loop may not."""
    for name in (
        "trainer/loop.py",
        "trainer/lab/plots.py",
        "benchmarks/headline/run.py",
        "benchmarks/headline/plots.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    first = version(caches.TRAINER, tmp_path)
    (tmp_path / "trainer/lab/plots.py").write_text("changed")
    (tmp_path / "benchmarks/headline/plots.py").write_text("changed")
    assert version(caches.TRAINER, tmp_path) == first
    (tmp_path / "trainer/loop.py").write_text("changed")
    assert version(caches.TRAINER, tmp_path) != first


# --- what chance could have done --------------------------------------------------------------------------------------


def test_an_interval_holds_its_mean_and_narrows_with_more_values() -> None:
    """Of values that are all alike it is a point."""
    few, many = (interval(np.random.default_rng(0).normal(size=size)) for size in (5, 500))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert interval([2.0, 2.0]).low == interval([2.0, 2.0]).high == 2.0


def test_a_paired_test_counts_the_orders_of_pairs() -> None:
    """Three pairs that all go one way can be no rarer than 2 in 8, and ties say nothing."""
    assert paired_p([1, 2, 3], [2, 3, 5]) == pytest.approx(0.25)
    assert paired_p([1, 2, 3, 4, 5], [2, 3, 5, 6, 7]) == pytest.approx(2 / 2**5)
    assert paired_p([1, 2], [1, 2]) == 1.0


# --- what the tables say ----------------------------------------------------------------------------------------------


def test_losses_stand_where_wins_do() -> None:
    """Against the best baseline by test data; variants of the ablation are no baselines."""
    assert best_baseline(LOST, "table") == "lbfgs"
    assert ranked(WON, "digits") == ["hybrid", "gce", "adam"]
    text = main_table([*LOST, *WON])
    assert "| lbfgs | +95 % error | 0 of 3 | 0.25 | lost |" in text
    assert "| gce | +5.0 points | 3 of 3 | 0.25 | won |" in text
    assert "1 won, 1 lost, 0 tie, of 2" in score_line([*LOST, *WON])


@pytest.mark.parametrize(("test", "so"), [(0.20001, "tie"), (0.19999, "tie"), (0.21, "lost"), (0.19, "won")])
def test_what_no_table_shows_is_a_tie(test: float, so: str) -> None:
    """Two methods that end in the same minimum differ in the last digits alone, one way or the other."""
    pair = [record("table", "hybrid", 0, test), record("table", "lbfgs", 0, 0.2)]
    assert verdict(pair, "table", "hybrid")[-1] == so


def test_the_ablation_shows_each_stand_in() -> None:
    """Where there are any."""
    assert [line.split(" | ")[1] for line in ablation(LOST).splitlines()[2:]] == [
        *("adam", "restart", "hybrid, rival", "hybrid")
    ]
    assert ablation(WON) == ""


def test_tables_replace_those_that_are_there() -> None:
    """And only between their own marks; where one of the two is missing nothing is touched."""
    begin, end = marks("quick")
    guide = f"before {begin}\n{end} after {begin[:8]}"
    assert replaced(guide, "quick", "new") == f"before {begin}\n\nnew\n{end} after {begin[:8]}"
    assert replaced(guide, "full", "new") == guide
    assert replaced(f"{begin} after", "quick", "new") == f"{begin} after"
    assert markdown(["a"], [["1"]]) == "| a |\n| --- |\n| 1 |\n"


def test_the_guide_holds_the_figures_of_its_runs() -> None:
    """docs/headline.md is what the committed runs say, to the digit."""
    records = [json.loads(line) for line in SHORT_RUNS.read_text().splitlines()]
    guide = (ROOT / "docs" / "headline.md").read_text()
    assert replaced(guide, "short", document(records)) == guide
    assert document(records) in guide
