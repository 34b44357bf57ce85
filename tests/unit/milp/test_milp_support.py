"""What is refused before a job is queued, in words that name the field; and that saying so needs no solver."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from milp_cases import job, tiny

from shared.activations import Activation
from shared.errors import ErrorCode, SpecError
from shared.snapshot import Snapshot, TailLayer
from solver_service.milp.backends.scip import live_parameters
from solver_service.milp.support import check_supported, parameters


def _refusal(snapshot, spec):
    with pytest.raises(SpecError) as caught:
        check_supported(snapshot, spec)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (
            {"constraints": [{"type": "nonnegative", "value": 0}], "solver": {"formulation": "reference"}},
            "solver.formulation",
        ),
        ({"solver": {"formulation": "reference", "backend": "highs"}}, "solver.backend"),
        ({"solver": {"backend": "highs", "params": {"branching/preferbinary": True}}}, "solver.params"),
    ],
)
def test_what_is_not_supported_yet_is_named(fields, field):
    """The field at fault and the stable code are in the error."""
    error = _refusal(tiny(0, "zero_one")[0], job("zero_one", **fields))
    assert (error.field, error.code) == (field, ErrorCode.NOT_SUPPORTED)


def test_the_reference_formulation_is_for_zero_one():
    """Other objectives are told to use the compact one."""
    error = _refusal(tiny(0, "ramp")[0], job("ramp", solver={"formulation": "reference"}))
    assert error.field == "solver.formulation"


def _hidden():
    inputs, weight = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    tail = (TailLayer(weight, None, Activation("identity")),)
    return Snapshot(task="regression", inputs=inputs, weight=weight, targets=inputs, tail=tail)


def test_a_tail_radius_needs_a_tail():
    """It is a mistake in the spec, not something that is to come."""
    error = _refusal(tiny(0, "zero_one")[0], job("zero_one", tail_radius=0.1))
    assert (error.field, error.code) == ("tail_radius", ErrorCode.INVALID_SPEC)
    assert "no tail" in error.detail


def test_hidden_layers_are_taken():
    """A tail, fixed or free, and an activation without a tail."""
    check_supported(_hidden(), job("mae"))
    check_supported(_hidden(), job("mae", tail_radius=0.5))
    check_supported(replace(_hidden(), activation=Activation("relu"), tail=()), job("outliers"))


def test_what_hidden_layers_do_not_know_is_named():
    """The authors' formulation is for the output layer; constraints are taken."""
    check_supported(_hidden(), job("mae", constraints=[{"type": "nonnegative", "value": 0}]))
    error = _refusal(_hidden(), job("mae", solver={"formulation": "reference"}))
    assert (error.field, error.code) == ("solver.formulation", ErrorCode.NOT_SUPPORTED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limits/nodes", 5),
        ("parallel/maxnthreads", 2),
        ("lp/threads", 2),
        ("randomization/randomseedshift", 1),
        ("misc/catchctrlc", True),
        ("visual/vbcfilename", 1),
        ("no/such", 1),
        ("branching/preferbinary", 1),
        ("separating/maxrounds", True),
        ("separating/maxrounds", 1.5),
        ("separating/maxrounds", -5),
        ("branching/clamp", 0.9),
        ("branching/clamp", float("nan")),
    ],
)
def test_a_parameter_off_the_list_is_refused_by_name(name, value):
    """Unknown, owned by the service, of the wrong type or out of range."""
    spec = job("zero_one", solver={"params": {name: value}})
    assert _refusal(tiny(0, "zero_one")[0], spec).field == f"solver.params.{name}"


def test_a_parameter_on_the_list_passes():
    """Booleans, integers and reals inside their ranges."""
    params = {"branching/preferbinary": True, "separating/maxrounds": 3, "branching/clamp": 0.3, "branching/midpull": 1}
    check_supported(tiny(0, "zero_one")[0], job("zero_one", solver={"params": params}))


def test_the_committed_list_is_that_of_the_installed_solver():
    """Regenerate it with `python -m solver_service.milp.backends.scip --write-parameters`."""
    assert parameters() == {name: tuple(entry) for name, entry in live_parameters().items()}


def test_the_check_loads_no_solver():
    """The gateway calls it, and carries no solver."""
    code = (
        "import sys, solver_service.milp.support as s; s.parameters(); "
        "print(sorted({'pyscipopt', 'highspy', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
