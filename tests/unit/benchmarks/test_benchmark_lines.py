"""Every benchmark answers `--help`, and what it cannot run with ends it in one line, before it runs or writes."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.command_lines import Answer, answers
from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
SNAPSHOTS = BENCHMARKS / "snapshots"
NOWHERE = "http://127.0.0.1:1"


def started(path: Path) -> list[str]:
    """How a file of the benchmarks is started."""
    if path.parent == BENCHMARKS:
        return [str(path)]
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return ["-m", module.removesuffix(".__main__")]


def at(name: str) -> list[str]:
    return [str(BENCHMARKS / f"{name}.py")]


PROGRAMS = {
    path.relative_to(BENCHMARKS).as_posix(): started(path)
    for path in sorted(BENCHMARKS.rglob("*.py"))
    if re.search(r'^if __name__ == "__main__":|^    main\(\)', path.read_text(), re.M)
}
WRITING = ("--json", "kept.json")
FOLDERS: dict[str, Sequence[str]] = {
    "gaps": WRITING,
    "ablation": WRITING,
    "building": (),
    "check_snapshots": ("--gateway", NOWHERE, *WRITING),
    "hidden": ("--gateway", NOWHERE, *WRITING),
    "rivals": ("--results", "results"),
    "solver": ("--results", "results"),
}
"""The benchmarks of a folder of snapshots, with options that let them write."""
REFUSED = {
    "check_snapshots, no pool": ([*at("check_snapshots"), str(SNAPSHOTS), "--gateway", NOWHERE], "no pool answers at "),
    "check_snapshots, an objective of its own": (
        [*at("check_snapshots"), "odd", "--gateway", NOWHERE],
        "odd/odd.safetensors: log_loss of a classification snapshot is not recomputed here, only zero_one, ramp",
    ),
    "hidden, other snapshots": ([*at("hidden"), str(SNAPSHOTS), "--gateway", NOWHERE], f"{SNAPSHOTS} lacks identity-"),
    "solver --only": ([*at("solver"), "--only", "nonsense"], f"there is no snapshot in {SNAPSHOTS} with 'nonsense' in"),
    "rivals --only": ([*at("rivals"), "--only", "nonsense"], f"there is no snapshot in {SNAPSHOTS} with 'nonsense' in"),
    "gaps --only": ([*at("gaps"), str(SNAPSHOTS), "--only", "nonsense"], f"there is no snapshot in {SNAPSHOTS} with "),
    "gaps, whole networks": ([*at("gaps"), str(SNAPSHOTS), "--only", "whole"], "no snapshot chosen in "),
    "a file that is not there": ([*at("rivals_run"), "job", "nothing"], "nothing: No such file"),
    "a file that is not there, solver_run": ([*at("solver_run"), "gdsolver", "nothing"], "nothing: No such file"),
    "the authors' model of a ramp": (
        [*at("solver_run"), "reference-scip", str(SNAPSHOTS / "digits-ramp-300.safetensors")],
        "digits-ramp-300.safetensors: reference-scip counts errors (zero_one); it is not for ramp",
    ),
    "scale --only": (
        [*at("scale"), "--only", "nonsense"],
        "there is no case with 'nonsense' in its name; there are: 20",
    ),
    "abuse --only": (
        [*at("abuse"), "--only", "nonsense"],
        "there is no kind of abuse 'nonsense'; there are: a foreign",
    ),
    "headline --only": (["-m", "benchmarks.headline", "--only", "nonsense"], "there is no case with 'nonsense' in its"),
    "headline, no data": (["-m", "benchmarks.headline", "--only", "uci:energy"], "uci:energy: set GDSOLVER_DATA"),
    "paper, no data": (["-m", "benchmarks.headline.paper", "--tasks", "uci:energy"], "uci:energy: set GDSOLVER_DATA"),
    "requirements --only": (
        ["-m", "benchmarks.requirements", "--data-dir", "odd", "--only", "nonsense"],
        "there is no setting with 'nonsense' in its name; there are: adult",
    ),
    "requirements --methods": (
        ["-m", "benchmarks.requirements", "--data-dir", "odd", "--methods", "nonsense"],
        "there is no method of these settings 'nonsense'; there are: hybrid; ",
    ),
    "requirements, no data": (["-m", "benchmarks.requirements", "--data-dir", "odd"], "GDSOLVER_DATA: odd/adult/adult"),
    "overlap, no data": ([*at("overlap"), "--task", "uci:energy"], "uci:energy: set GDSOLVER_DATA"),
    "page, no Playwright": (at("page"), "Playwright and a Chromium on the PATH are needed: pip install playwright"),
}
"""Command lines that cannot run, and how the only line begins that they answer with."""
STARTED_BY_OTHERS = ("building", "minimal", "stand_in", "abuse_pool")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs run: an empty folder, one with an odd snapshot, and results of an earlier run."""
    from dataclasses import replace

    from tests.conftest import small_snapshot

    made = tmp_path_factory.mktemp("benchmarks")
    for name in ("empty", "odd", "results"):
        (made / name).mkdir()
    for name in ("kept.json", "results/rivals.json", "results/solver.json"):
        (made / name).write_text('{"records": []}')
    note = {"objective": "log_loss", "radius": 0.1}
    (made / "odd" / "odd.safetensors").write_bytes(replace(small_snapshot(), note=note).to_bytes())
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Answer]:
    """Every answer, and what became of the folder."""
    lines = {f"{name} --help": [*line, "--help"] for name, line in PROGRAMS.items()}
    lines |= {name: line for name, (line, _) in REFUSED.items()}
    lines |= {
        f"{name} in {where}": [*at(name), where, *more] for name, more in FOLDERS.items() for where in ("empty", "no")
    }
    lines |= {f"{name} alone": at(name) for name in STARTED_BY_OTHERS}
    lines["worker alone"] = ["-m", "benchmarks.headline.worker"]
    before = contents(folder)
    found = answers(list(lines.values()), folder, without="playwright")
    assert contents(folder) == before, "nothing that ends so writes anything"
    assert {path.name for path in folder.iterdir()} == {"empty", "odd", "results", "kept.json"}
    return dict(zip(lines, found, strict=True))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_benchmark_answers_help(name: str, told: dict[str, Answer]) -> None:
    """It says how it is used, and does nothing."""
    answer = told[f"{name} --help"]
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("usage: ")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("where", ["empty", "no"])
def test_a_folder_without_snapshots_is_refused(name: str, where: str, told: dict[str, Answer]) -> None:
    """One line and a failure, whether the folder is empty or missing; no table, and results stay as they are."""
    assert told[f"{name} in {where}"] == Answer(1, "", f"{where} holds no snapshots (*.safetensors)\n")


def test_no_benchmark_of_a_folder_is_forgotten() -> None:
    """Whoever looks for snapshots in a folder is asked for an empty one above."""
    texts = {path.stem: path.read_text() for path in BENCHMARKS.glob("*.py")}
    looking = {name for name, text in texts.items() if re.search(r"import .*(snapshots|output_layers)_in|glob\(", text)}
    assert looking - {"given"} == set(FOLDERS)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_ends_in_one_line(name: str, told: dict[str, Answer]) -> None:
    """No traceback, no head of a table: the line names what is wrong, or what there is."""
    answer, begins = told[name], REFUSED[name][1]
    assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1), answer.err
    assert answer.err.startswith(begins)


@pytest.mark.parametrize("name", [*STARTED_BY_OTHERS, "worker"])
def test_what_others_start_says_how(name: str, told: dict[str, Answer]) -> None:
    """Without arguments it is told its usage, as a wrong command line."""
    answer = told[f"{name} alone"]
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("usage: ")
    assert answer.err.splitlines()[-1].endswith(("FOLDER", "part", "NAME, SLOTS", "PORT, TOKEN, JOB"))
