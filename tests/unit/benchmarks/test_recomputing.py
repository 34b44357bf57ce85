"""What `benchmarks/check_snapshots.py` recomputes by its own loop is what the objectives say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from check_snapshots import RECOMPUTED, asked_of, check, description, jobs_of, line, recompute
from columns import columns
from safetensors.numpy import load

from benchmarks.rivals_case import spec_of
from shared.activations import Activation
from shared.snapshot import Snapshot, TailLayer
from tests.conftest import small_snapshot

NOTES: dict[str, dict[str, Any]] = {
    "ramp": {"margin": 0.5},
    "hinge": {"margin": 2.0},
    "outliers": {"tolerance": 0.5},
}


def posed(objective: str, outputs: int) -> Snapshot:
    """A job of an objective, with sample weights; a regression's only output has targets [N], as half of them do."""
    snapshot, rng = small_snapshot(), np.random.default_rng(1)
    weights = rng.uniform(0.5, 2.0, snapshot.samples).astype(np.float32)
    if objective in RECOMPUTED["regression"]:
        targets = rng.normal(size=(snapshot.samples, outputs)).astype(np.float32)
        weight, bias = snapshot.weight[:outputs], np.zeros(outputs, np.float32)
        targets = targets[:, 0] if outputs == 1 else targets
        snapshot = replace(snapshot, task="regression", targets=targets, weight=weight, bias=bias)
    note = {"objective": objective, "radius": 0.1, **NOTES.get(objective, {})}
    return replace(snapshot, sample_weight=weights, note=note)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("objective", [name for names in RECOMPUTED.values() for name in names])
def test_a_recomputed_value_is_the_objective(objective: str, outputs: int) -> None:
    """For every objective that it claims, with the note's margin or tolerance, sample weights, and any targets."""
    snapshot = posed(objective, outputs)
    data = snapshot.to_bytes()
    found = recompute(asked_of(description(data)), description(data), load(data), {})
    spec = spec_of(dict(snapshot.note), 1.0, 0)
    assert found == pytest.approx(spec.goal.value(snapshot, snapshot.weight, snapshot.bias), rel=1e-9)


def test_a_tail_is_recomputed_with_its_offset() -> None:
    """What a layer of the tail adds to each sample counts, too."""
    snapshot, rng = small_snapshot(), np.random.default_rng(2)
    outer, added = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(30, 3)).astype(np.float32)
    tail = (TailLayer(outer, None, Activation("identity"), added),)
    snapshot = replace(snapshot, activation=Activation("relu"), tail=tail, note={"objective": "ramp", "radius": 0.1})
    data = snapshot.to_bytes()
    found = recompute(asked_of(description(data)), description(data), load(data), {})
    spec = spec_of(dict(snapshot.note), 1.0, 0)
    assert found == pytest.approx(spec.goal.value(snapshot, snapshot.weight, snapshot.bias), rel=1e-9)


def test_the_whole_note_goes_into_the_job() -> None:
    """Constraints and a bias's own radius are asked for, fields of no spec are not."""
    note = {
        "objective": "ramp",
        "radius": 0.1,
        "bias_radius": 1.0,
        "constraints": [{"type": "recall_floor", "value": 0.5}],
        "layer": "head",
    }
    about = description(replace(small_snapshot(), note=note).to_bytes())
    assert asked_of(about) == {name: value for name, value in note.items() if name != "layer"}


def test_a_row_that_breaks_is_a_row(tmp_path: Path) -> None:
    """The other rows and the JSON are not lost: it says what broke, and does not agree."""
    file = tmp_path / "odd.safetensors"
    file.write_bytes(posed("ramp", 3).to_bytes())
    assert jobs_of(file) == [0.0]
    for path in (file, tmp_path / "missing.safetensors"):
        row = check(path, "http://127.0.0.1:1", 1.0)
        assert not row["ok"]
        assert row["status"].startswith(("CalledProcessError: curl", "FileNotFoundError: "))
        assert line(row).endswith("DIFFERS |")


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """No figure is cut, however long a line becomes."""
    long = "1" * 200
    assert columns(("a", "figure"), [("x", "2"), (long, "33")]) == f"{'a':200}  figure\n{'x':200}  2\n{long}  33"
