"""Tables of the documents, held to the JSON that their commands wrote."""

import json
import re
from statistics import median
from typing import Any

import pytest

from benchmarks.rivals_report import value_at
from benchmarks.scale import CASES
from benchmarks.scale import cells as printed
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
SNAPSHOTS = {
    "adult, errors under a rate gap": "adult-gap-1500",
    "the same, recall floor 0.75": "adult-recall75-1500",
    "the same, recall floor 0.9": "adult-recall90-1500",
    "CIFAR-10, 10,000, ramp": "cifar-tiny32-10000",
    "Fashion, 1,000, ramp, ten recall floors": "fashion-longtail-floors-1000",
    "Fashion, 20,000, errors": "fashion-mlp64-20000",
    "Fashion, wrong labels, 5,000, ramp": "fashion-mlp64-noise-5000",
    "MNIST, wrong labels, 3,000 x 1,875 inputs, ramp": "mnist-conv-noise-3000",
}


def results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (ROOT / page).read_text().split(f"{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert lines is not None
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def reads(cell: str, value: float) -> bool:
    """Whether a cell is a value rounded as far as the cell goes."""
    return float(cell.replace(",", "")) == round(value, len(cell.partition(".")[2]))


def test_two_workers_instead_of_one() -> None:
    found = rows("docs/trainer/cost.md", "## Many free workers")
    for (task, pool, ratio, whole), row in zip(found, results("more-workers")["rows"], strict=True):
        assert (task.strip("`"), pool) == (row["task"], f"{row['workers']}, {row['jobs']}")
        assert reads(ratio, row["ratio of sums"]) or (ratio, row["ratio of sums"]) == ("1", 1.0)
        assert reads(whole.removesuffix(" s"), row["whole run, median s"])


def test_a_larger_backbone_on_a_gpu() -> None:
    for cells, row in zip(rows("docs/trainer/cost.md", "## On a GPU"), results("backbone-cuda"), strict=True):
        values = (row["parameters"], row["bytes"], 1000 * row["step_s"], 1000 * row["passes_s"], row["beyond_mb"])
        assert all(reads(cell, value) for cell, value in zip(cells, values, strict=True)), cells


@pytest.mark.parametrize("after", [1.0, 5.0])
def test_counts_that_grow_sharp(after: float) -> None:
    """The job's worst seed at each limit, and the rival's median seed at these times of its run."""
    records = results("rivals-annealed")["records"]
    found = rows("docs/solver/measured.md", "## Counts as sigmoids that grow sharp")
    assert [name for name, *_ in found] == list(SNAPSHOTS)
    for name, *cells in found:
        mine = [one for one in records if one["snapshot"] == SNAPSHOTS[name]]
        job = max(one["value"] for one in mine if one["method"] == "job" and one["time_s"] == after)
        rival = [value_at(one, after) for one in mine if one["method"] == "annealed"]
        column = int(after != 1.0)
        assert reads(cells[column], job), (name, cells, job)
        assert reads(cells[2 + column], median(rival)) if rival else not cells[2 + column], (name, cells, rival)


def test_large_jobs() -> None:
    """Every case of the command, as it printed them."""
    records = results("scale")["records"]
    assert [record["case"] for record in records] == list(CASES)
    assert rows("docs/solver/measured.md", "## Large jobs") == [printed(record) for record in records]


def test_many_classes() -> None:
    """Every run of the command, won or lost."""
    found = rows("docs/solver/measured.md", "## Many classes")
    for cells, one in zip(found, results("many-classes")["records"], strict=True):
        assert cells[:3] == [one["case"], f"`{one['objective']}`", f"{one['time_s']:g}"]
        assert cells[3:] == [f"{one['job']:.4g}", f"{one['took_s']:.2f}", f"{one['script']:.4g}"]


def test_weights_with_few_values() -> None:
    found = results("few-values")["rows"]
    for cells, row in zip(rows("docs/solver/few-values.md", "## Measured"), found, strict=True):
        data, objective, asked, *seeds, ratio = cells
        assert (data, objective, asked) == (row["data"], f"`{row['objective']}`", f"`{row['asked']}`")
        for cell, run in zip(seeds, row["runs"], strict=True):
            job, script = (float(one) for one in cell.rstrip(")").split(" ("))
            assert (f"{job:.4g}", f"{script:.4g}") == (f"{run['job']:.4g}", f"{run['script']:.4g}"), cells
        assert reads(ratio, row["ratio"])


def test_what_others_feel_of_abuse() -> None:
    """Every kind that was timed, in the order of the command, and what is said of all of them."""
    found = results("abuse")
    timed = [phase for phase in found["phases"] if phase["probes"]]
    for (_, *cells), phase in zip(rows("docs/security.md", "## What others feel of it"), timed, strict=True):
        values = (phase["p99_ms"], phase["ratio"], phase["max_ms"])
        assert all(reads(cell, value) for cell, value in zip(cells, values, strict=True)), (phase["name"], cells)
    page = (ROOT / "docs/security.md").read_text()
    told = f"p99 was {found['abuse_p99_ms']:.1f} ms, {found['ratio']:.1f} times the idle one"
    assert f"{told}. The gateway never had more than {found['gateway_rss_mb']:.0f} MB" in page
