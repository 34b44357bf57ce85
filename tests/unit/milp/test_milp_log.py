"""A solve's log: its stages with their values, a solver's own words where it runs long, and never in its way."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from shared.contracts import JobSpec
from solver_service.milp.backends import own_words
from solver_service.milp.backends.own_words import MOST_WAITING, OwnWords, log_file
from solver_service.milp.core.control import Control
from solver_service.milp.solve import solve
from tests.conftest import small_snapshot
from tests.unit.milp.test_milp_searches import blobs

FIGURES = re.compile(r"objective ([-+.e\d]+), bound ([-+.e\d]+)")


def spec(objective: str, **given: object) -> JobSpec:
    return JobSpec.model_validate({"objective": objective, "radius": 0.3, "limits": {"time_s": 3}, **given})


def test_a_log_tells_stages_and_ends_with_the_result() -> None:
    """Each line has its second; values only get better, and the last ones are the result's."""
    texts: list[str] = []
    result = solve(small_snapshot(), spec("zero_one"), Control(on_text=texts.append)).result
    lines = "".join(texts).splitlines()
    assert all(re.match(r" {0,8}\d+\.\d\d s  \S", line) for line in lines)
    values = [(float(found[1]), float(found[2])) for line in lines if (found := FIGURES.search(line))]
    assert [one for one, _ in values] == sorted((one for one, _ in values), reverse=True)
    assert [bound for _, bound in values] == sorted(bound for _, bound in values)
    assert values[-1] == (result.objective.final, result.objective.bound)
    assert f"ended as {result.status}" in "".join(lines)
    assert "searches" in "".join(lines)


def test_values_are_the_jobs_own_in_other_units() -> None:
    """Where a job is solved in units near to 1 its log still speaks in the job's."""
    snapshot = small_snapshot()
    heavy = replace(snapshot, sample_weight=np.full(snapshot.samples, 2.0**20, np.float32))
    texts: list[str] = []
    result = solve(heavy, spec("ramp"), Control(on_text=texts.append)).result
    lines = "".join(texts)
    assert "2^-20 times the job's" in lines
    begun = next(line for line in lines.splitlines() if "start; " in line)
    assert float(FIGURES.search(begun)[1]) == pytest.approx(result.objective.start, rel=1e-5)  # type: ignore[index]


@pytest.mark.parametrize(("backend", "said"), [("scip", "presolved problem has"), ("highs", "Solving report")])
def test_a_long_run_brings_the_solvers_own_words(
    backend: str, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Between begin and end stands what the solver says, and nothing of it reaches stdout."""
    monkeypatch.setattr(own_words, "WORTH_S", 0.0)
    texts: list[str] = []
    job = spec("zero_one", solver={"backend": backend}, limits={"time_s": 5})
    solve(blobs(8, samples=120), job, Control(on_text=texts.append))
    log = "".join(texts)
    name = {"scip": "SCIP", "highs": "HiGHS"}[backend]
    assert log.index(f"{name} begins") < log.index(said) < log.index(f"{name} ended")
    assert capfd.readouterr() == ("", "")


def test_a_listener_that_fails_ends_nothing() -> None:
    """A log that cannot be kept is no reason to lose a solve; the answer is the same."""

    def fail(_: str) -> None:
        raise OSError("no room")

    heard = solve(small_snapshot(), spec("hinge"), Control(on_text=fail)).result
    alone = solve(small_snapshot(), spec("hinge")).result
    assert heard.objective == alone.objective


def test_short_runs_and_floods_are_left_out() -> None:
    """Nothing is passed on of a run under a second, and of a longer one no more than fits."""
    now, texts = [0.0], list[str]()
    words = OwnWords(Control(on_text=texts.append), clock=lambda: now[0])
    words.add("a banner\n")
    words.pass_on(last=True)
    assert texts == []
    for _ in range(3 * MOST_WAITING // 1000):
        words.add(999 * "x" + "\n")
    now[0] = 2.0
    words.pass_on()
    assert texts[0].startswith("a banner\n")
    assert MOST_WAITING <= len(texts[0]) <= MOST_WAITING + 1000


def test_without_a_folder_a_solver_goes_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be made the run goes on without its words."""

    def refuse() -> object:
        raise OSError("read-only")

    monkeypatch.setattr(own_words, "TemporaryDirectory", refuse)
    named: list[str | None] = []
    with log_file(Control(on_text=lambda _: None), named.append) as file:
        assert file is None
    assert named == []


def test_a_log_file_is_read_on_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text arrives as it is written, the rest at the end; the file has no name that a killed process could leave."""
    monkeypatch.setattr(own_words, "WORTH_S", 0.0)
    monkeypatch.setattr(own_words, "EVERY_S", 0.0)
    texts, opened = list[str](), list[TextIO]()

    def name_it(name: str | None) -> None:
        if name is None:
            opened[0].close()
        else:
            opened.append(Path(name).open("a"))  # noqa: SIM115 - as SCIP does it

    with log_file(Control(on_text=texts.append), name_it) as file:
        assert file is not None
        assert not Path(opened[0].name).exists()
        opened[0].write("one\n")
        opened[0].flush()
        file.pump()
        assert texts == ["one\n"]
        opened[0].write("two\n")
    assert texts == ["one\n", "two\n"]
