"""Reports: figures that add up, JSON that any reader takes, and plots that are there."""

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from trainer.events import Event, Summary
from trainer.lab.experiment import conclude, write_down
from trainer.lab.plots import job_spans
from trainer.lab.report import document, summarise, table, write_json
from trainer.lab.runs import Epoch, Run

SUMMARY = Summary(1, 1, 1, 1, 0, 0, False, 120, 3.5, 0.1)
EVENTS = (
    Event("stall", 1.0, 1, 10, 1),
    Event("submitted", 1.1, 1, 11, 1, job="a"),
    Event("answered", 2.0, 2, 131, 1, job="a"),
    Event("adopted", 2.1, 2, 131, 1, job="a", way="block", before=0.8, after=0.9),
)


def a_run(method: str, seed: int, test: float, **changes: object) -> Run:
    epochs = (Epoch(1, 0.0, 1.0, 0.5, False), Epoch(2, 1.0, 2.2, test, method == "hybrid"))
    run = Run("digits", method, seed, "accuracy", test, test, test, 2.5, 2.2, 100, epochs, "0" * 64)
    if method == "hybrid":
        run = dataclasses.replace(run, events=EVENTS, summary=SUMMARY)
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


RUNS = [a_run("adam", 0, 0.8), a_run("adam", 1, 0.9), a_run("hybrid", 0, 0.9), a_run("hybrid", 1, 0.9)]


def test_summaries_are_mean_and_spread_over_seeds() -> None:
    """Means and sample standard deviations per method, sums for the solver's counts."""
    adam, hybrid = summarise(RUNS)
    assert (adam.test_mean, adam.test_std) == (pytest.approx(0.85), pytest.approx(0.0707, abs=1e-3))
    assert (hybrid.adopted, hybrid.gd_steps_during_jobs, hybrid.longest_step_ms) == (2, 240, 3.5)
    assert adam.longest_step_ms is None


def test_the_table_shows_every_method() -> None:
    """Each method is a row; the table fits a narrow terminal."""
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(table(summarise(RUNS), "digits"))
        text = console.export_text()
    assert "adam" in text
    assert "0.8500 ± 0.0707" in text


def test_small_errors_are_not_rounded_away() -> None:
    """A mean squared error of 3.2e-05 is not shown as 0.0000."""
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(table(summarise([a_run("adam", 0, 3.2e-05)]), "table"))
        assert "3.2e-05" in console.export_text()


def test_everything_is_written_down(tmp_path: Path) -> None:
    """JSON and plots are written; the JSON holds runs, summaries, seeds, versions and cores, and no NaN."""
    broken = a_run("sgd", 0, float("nan"))
    written = write_down([*RUNS, broken], {"task": "digits"}, tmp_path / "out", tmp_path / "copy.json")
    assert {path.name for path in written} == {"report.json", "copy.json", "metric.png", "timeline.png"}
    assert all(path.stat().st_size > 100 for path in written)
    content = json.loads((tmp_path / "copy.json").read_text(), parse_constant=pytest.fail)
    assert content["seeds"] == [0, 1]
    assert len(content["runs"]) == 5
    assert content["versions"]["torch"]
    assert content["cores"] >= 1
    assert content["runs"][2]["events"][3]["way"] == "block"
    assert content["runs"][4]["test"] is None


def test_plain_gd_has_no_timeline(tmp_path: Path) -> None:
    """Without a tunnelled run there is no overlap to draw."""
    assert [path.name for path in write_down(RUNS[:2], {}, tmp_path, None)] == ["report.json", "metric.png"]


def test_job_spans_are_from_post_to_answer() -> None:
    """A job that never came back lasts until the run's end."""
    lost = Event("submitted", 2.2, 2, 140, 2, job="b")
    assert job_spans(a_run("hybrid", 0, 0.9, events=(*EVENTS, lost))) == [(1.1, 2.0), (2.2, 2.5)]


def test_the_last_line_says_that_the_pool_was_lost() -> None:
    """Adoptions, or their absence, are said in words; a lost pool is the last word."""
    said: list[str] = []
    conclude([a_run("hybrid", 0, 0.9)], said.append)
    assert said == ["hybrid seed 0: 1 adopted (block 0.8 -> 0.9, accuracy on validation)"]
    lost = dataclasses.replace(SUMMARY, adopted=0, pool_lost=True)
    conclude([a_run("hybrid", 0, 0.9, summary=lost)], said.append)
    assert "no tunnel was adopted" in said[1]
    assert said[-1] == "the pool was lost"
    assert document(RUNS, {})["pool_lost"] is False


def test_json_goes_into_a_device_and_not_in_its_place(tmp_path: Path) -> None:
    """`--json /dev/stdout`, or a pipe that somebody reads: what is there stays what it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_json(pipe, {"a": 1})
        assert json.loads(read.result(timeout=10)) == {"a": 1}
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
