"""The model as a file: another run of a solver on it finds the job's optimum; what has no file is refused."""

import re
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pytest

from shared.contracts import JobSpec
from shared.errors import SpecError
from shared.snapshot import Snapshot
from solver_service.milp import problem_file
from solver_service.milp.problem_file import mps
from solver_service.milp.solve import solve
from tests.conftest import small_snapshot


def optimum(data: bytes, folder: Path) -> float:
    path = folder / "model.mps"
    path.write_bytes(data)
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    assert highs.readModel(str(path)) == highspy.HighsStatus.kOk
    highs.run()
    return float(highs.getInfo().objective_function_value)


@pytest.mark.parametrize(
    "more", [{"objective": "zero_one"}, {"objective": "ramp"}, {"objective": "hinge"},
             {"objective": "zero_one", "constraints": [{"type": "recall_floor", "value": 0.6, "classes": [1]}]}],
)  # fmt: skip
def test_the_files_optimum_is_the_jobs(more: dict[str, Any], tmp_path: Path) -> None:
    """HiGHS, given the file alone, finds what the job proves, the constant of screened samples included."""
    snapshot = small_snapshot(1, n=16, d=2)
    spec = JobSpec.model_validate({"radius": 0.4, "limits": {"time_s": 20}, **more})
    proven = solve(snapshot, spec).result.objective
    assert proven.gap < 1e-4
    assert optimum(mps(snapshot, spec), tmp_path) == pytest.approx(proven.final, abs=1e-3)


def test_the_reference_formulation_is_written_too() -> None:
    """Indicator rows have a section of their own."""
    spec = JobSpec.model_validate({"objective": "zero_one", "radius": 0.4, "solver": {"formulation": "reference"}})
    assert re.search(rb"^INDICATORS", mps(small_snapshot(1, n=8, d=2), spec), re.MULTILINE)


def test_what_has_no_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares are no MILP; a model with too many coefficients is not written."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(9, 2)).astype(np.float32), rng.normal(size=(9, 1)).astype(np.float32)
    squares = Snapshot("regression", inputs, targets, np.zeros((1, 2), np.float32))
    with pytest.raises(SpecError, match="no linear objective"):
        mps(squares, JobSpec(objective="mse", radius=0.1))
    monkeypatch.setattr(problem_file, "MOST_NONZEROS", 10)
    with pytest.raises(SpecError, match="coefficients"):
        mps(small_snapshot(), JobSpec(objective="ramp", radius=0.1))
