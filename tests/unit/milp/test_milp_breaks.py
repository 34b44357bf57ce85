"""Specs at the ends of what float64 holds, and solvers that break: every job that was taken ends with a result."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse as sp
from milp_cases import assert_honest, job, tiny

from shared.contracts import InlineSnapshot, JobSpec, SolveStatus
from shared.errors import SpecError
from shared.snapshot import Activation, Snapshot
from solver_service.errors import SolverError, StoreUnavailableError
from solver_service.milp.backends import highs
from solver_service.milp.backends.outcome import MilpOptions
from solver_service.milp.backends.registry import MODULES, milp_solver
from solver_service.milp.core.control import Control
from solver_service.milp.core.solution import GAVE_UP
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.network.joint.search import JointSearch
from solver_service.milp.solve import solve


def _breaking(*_, **__):
    raise SolverError("error in LP solver!")


@pytest.mark.parametrize("backend", ["scip", "highs"])
@pytest.mark.parametrize("constraints", [[], [{"type": "recall_floor", "value": 0.3}]])
def test_a_solver_that_breaks_is_stood_in_for_by_the_other(monkeypatch, backend, constraints):
    """Numerical trouble of one solver is seldom that of both: the job is proven all the same."""
    snapshot = tiny(3, "ramp", n=14)[0]
    spec = job("ramp", solver={"backend": backend}, constraints=constraints)
    expected = solve(snapshot, spec)
    monkeypatch.setattr(import_module(MODULES[backend]), "solve", _breaking)
    found = solve(snapshot, spec)
    assert found.result.status is expected.result.status is SolveStatus.OPTIMAL
    assert found.result.objective.final == pytest.approx(expected.result.objective.final, rel=1e-4)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("broken", ["milp", "lp"])
def test_what_was_found_stands_where_every_solver_breaks(monkeypatch, hidden, broken):
    """The job ends with the weights it has, says what gave up, and is not lost; searches without a solver go on."""
    snapshot = tiny(0, "ramp", n=60, d=6, h=4)[0]
    if hidden:
        snapshot = replace(snapshot, activation=Activation.parse("relu"))
    if broken == "milp":
        for module in MODULES.values():
            monkeypatch.setattr(import_module(module), "solve", _breaking)
    else:
        monkeypatch.setattr(highs.LinearProgram, "run", _breaking)
    spec = job("ramp", time_s=60, limits={"nodes": 50})
    found = solve(snapshot, spec)
    assert_honest(snapshot, spec, found)
    assert found.result.objective.final < found.result.objective.start
    assert f"error in LP solver!; {GAVE_UP}" in found.result.notes


@pytest.mark.parametrize("error", [OverflowError("beyond"), ValueError("NaN"), IndexError("far"), MemoryError()])
@pytest.mark.parametrize("hidden", [False, True])
def test_arithmetic_that_breaks_loses_nothing(monkeypatch, error, hidden):
    """What searches found before stands; where memory was short the status says so."""

    def breaks(*_, **__):
        raise error

    snapshot = tiny(0, "ramp", n=60, d=6, h=4)[0]
    if hidden:
        snapshot = replace(snapshot, activation=Activation.parse("relu"))
    where = "network.solve._branch" if hidden else "final_layer.solve._branch_and_bound"
    monkeypatch.setattr(f"solver_service.milp.{where}", breaks)
    spec = job("ramp", time_s=60, limits={"nodes": 50})
    result = solve(snapshot, spec).result
    assert result.objective.final < result.objective.start
    assert any(note.endswith(GAVE_UP) for note in result.notes)
    expected = SolveStatus.MEMORY_LIMIT if isinstance(error, MemoryError) else SolveStatus.GAP_REACHED
    assert result.status is expected


def test_who_listens_may_break_off():
    """A worker whose Redis is gone has to hear of it: that is not the job's result."""

    def gone(_):
        raise StoreUnavailableError("Redis is away")

    with pytest.raises(StoreUnavailableError):
        solve(tiny(0, "ramp", n=60, d=6, h=4)[0], job("ramp"), Control(gone))


@pytest.mark.parametrize("constraints", [[], [{"type": "nonnegative"}]])
@pytest.mark.parametrize("task", ["multilabel", "regression", "binary"])
def test_a_block_that_may_not_move_is_answered_at_once(task, constraints):
    """Every radius is 0: its own weights are the optimum, or break a constraint for good."""
    units = 1 if task == "binary" else 2
    targets = {
        "multilabel": np.array([[1, 0], [0, 1], [1, 1]]),
        "regression": np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32),
        "binary": np.array([1, 0, 1]),
    }
    snapshot = Snapshot(
        task=task,
        activation=Activation.parse("sigmoid"),
        inputs=np.array([[1, 2], [-1, 0], [0, 1]], dtype=np.float32),
        targets=targets[task],
        weight=-np.ones((units, 2), dtype=np.float32),
        radius=np.zeros((units, 2), dtype=np.float32),
    )
    objective = "mse" if task == "regression" else "log_loss"
    result = solve(snapshot, job(objective, radius=None, constraints=constraints)).result
    assert result.objective.final == result.objective.start
    assert result.status is (SolveStatus.INFEASIBLE if constraints else SolveStatus.OPTIMAL)
    assert result.timings.total_s < 2


def test_a_joint_search_that_never_descended_goes_on_without(monkeypatch):
    """A limit that is over before the first descent, or one without a finite end, leaves nothing to alter."""
    monkeypatch.setattr(JointSearch, "_keep", lambda *_: None)
    snapshot = replace(tiny(1, "mse", n=20, d=3, h=2)[0], activation=Activation.parse("tanh"))
    spec = job("mse", time_s=0.5)
    assert not any(GAVE_UP in note for note in solve(snapshot, spec).result.notes)


ENDS = (1e-300, 1e-30, 1e-6, 1.0, 1e6, 1e30, 3e38)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(30))
def test_specs_at_the_ends_of_what_is_allowed_have_a_result(seed):
    """Radii, margins, prices and numbers near the ends of float32 and float64: a 422 says so, or a result is honest."""
    rng = np.random.default_rng(seed)

    def end(most=3e38):
        return float(rng.choice([one for one in ENDS if one <= most]))

    tensors = {
        "inputs": (rng.normal(size=(4, 2)) * end(1e30)).tolist(),
        "weight": (rng.normal(size=(2, 2)) * end(1e30)).tolist(),
        "targets": rng.integers(0, 2, 4).tolist(),
        "sample_weight": [end(1e30) for _ in range(4)],
    }
    inline = {"task": "classification", "tensors": tensors}
    if seed % 2:
        inline |= {"activation": "relu", "tail": ["identity"]}
        tensors["tail.0.weight"] = (rng.normal(size=(2, 2)) * end(1e30)).tolist()
    constraints = [{"type": "grid", "value": end()}, {"type": "movement_cost", "value": end(1e6)}][: seed % 3]
    fields = {"objective": str(rng.choice(["ramp", "hinge", "log_loss", "zero_one"])), "radius": end(), "margin": end()}
    spec = JobSpec.model_validate(fields | {"constraints": constraints, "limits": {"time_s": 0.3}})
    snapshot = InlineSnapshot.model_validate(inline).decode()
    try:
        spec.check(snapshot)
    except SpecError:
        return
    report = solve(snapshot, spec).result.objective
    assert np.isfinite([report.start, report.final, report.bound]).all()
    assert constraints or report.final <= report.start


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_a_grid_that_only_0_fits_in_the_widest_box_has_a_result(backend):
    """Its numbers are more than solvers take: the job ends all the same, with weights of 0."""
    snapshot = tiny(0, "max_error", n=6, d=2, h=3)[0]
    spec = job("max_error", radius=3e38, constraints=[{"type": "grid", "value": 1e300}], solver={"backend": backend})
    assert not solve(snapshot, spec).weight.any()


@pytest.mark.parametrize("backend", ["scip", "highs"])
@pytest.mark.parametrize(("largest", "believed"), [(1e7, True), (1e9, False)])
def test_rows_that_no_tolerance_is_small_beside_prove_nothing(backend, largest, believed):
    """Solutions are taken as ever; a bound and the claim to be complete are not, nor those that come on the way."""
    model = LinearModel(
        objective=np.array([1.0]),
        constant=0.0,
        lower=np.array([0.0]),
        upper=np.array([10.0]),
        integer=np.array([True]),
        matrix=sp.csr_array(np.array([[largest]])),
        row_lower=np.array([2.5 * largest]),
        row_upper=np.array([np.inf]),
        indicator=np.array([-1]),
        change_columns=1,
    )
    heard = []
    options = MilpOptions(time_s=10, memory_mb=500)
    outcome = milp_solver(backend)(model, options, Control(), lambda x, bound, _: heard.append((x[0], bound)))
    assert heard[-1][0] == pytest.approx(3.0)
    assert (outcome.status is SolveStatus.OPTIMAL) is believed
    assert np.isfinite(outcome.bound) == believed
    assert believed or all(bound == -np.inf for _, bound in heard)
