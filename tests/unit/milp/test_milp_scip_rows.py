"""What SCIP is given by its own C function is the model, row by row."""

import numpy as np
import pytest
import scipy.sparse as sp
from milp_cases import job, tiny

from solver_service.errors import SolverError
from solver_service.milp.backends import scip as scip_backend
from solver_service.milp.backends.scip import build
from solver_service.milp.backends.scip_rows import check, linear_rows
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.reference import reference_model

ROWS, COLUMNS = 5, 4


def model(**fields):
    """Rows of every kind of sides, one of them empty."""
    matrix = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).round(2)
    matrix[2] = 0.0
    matrix[1, :2] = 0.0
    return LinearModel(
        objective=np.zeros(COLUMNS),
        constant=0.0,
        matrix=sp.csr_array(matrix),
        row_lower=np.array([-1.0, -np.inf, -3.0, 0.5, -np.inf]),
        row_upper=np.array([np.inf, 2.0, np.inf, 0.5, 4.0]),
        lower=np.zeros(COLUMNS),
        upper=np.ones(COLUMNS),
        integer=np.arange(COLUMNS) % 2 == 0,
        change_columns=0,
        indicator=np.full(ROWS, -1),
        **fields,
    )


@pytest.fixture(params=["arrays", "one by one"])
def way(request, monkeypatch):
    """Both ways in which rows get into SCIP."""
    if request.param != "arrays":
        monkeypatch.setattr(scip_backend, "LINEAR_ROWS", linear_rows("no such module"))


@pytest.mark.usefixtures("way")
def test_every_row_arrives_with_its_coefficients_and_sides():
    """Nothing is lost between the arrays and SCIP."""
    wanted = model()
    scip, variables = build(wanted)
    rows = scip.getConss()
    places = {variable.name: place for place, variable in enumerate(variables)}
    found = np.zeros((ROWS, COLUMNS))
    for number, row in enumerate(rows):
        for variable, value in zip(scip.getConsVars(row), scip.getConsVals(row), strict=True):
            if variable.name in places:  # a row may have begun on a fixed variable
                found[number, places[variable.name]] = value
    assert (found == wanted.matrix.toarray()).all()
    infinity = scip.infinity()
    assert [scip.getLhs(row) for row in rows] == np.maximum(wanted.row_lower, -infinity).tolist()
    assert [scip.getRhs(row) for row in rows] == np.minimum(wanted.row_upper, infinity).tolist()


@pytest.mark.usefixtures("way")
def test_rows_that_wait_are_not_in_the_first_lp():
    """Only leading rows are initial, and without a word all are."""
    leading = np.array([True, False, True, False, True])
    (whole, _), (some, _) = build(model()), build(model(leading=leading))
    assert [row.isInitial() for row in some.getConss()] == leading.tolist()
    assert all(row.isInitial() for row in whole.getConss())
    assert all(row.isChecked() and row.isEnforced() and row.isPropagated() for row in some.getConss())


def test_filling_stops_on_request():
    """A model that takes long to fill does not keep a stop waiting; indicators are no exception."""
    assert build(model(), lambda: True)[0] is None
    problem = problem_of(tiny(0, "zero_one")[0], job("zero_one"))
    switched = reference_model(problem, requirements_of(problem))
    assert build(switched, lambda: True)[0] is None
    scip, _ = build(switched)
    assert scip.getNConss() >= switched.rows


def test_an_error_of_scip_is_an_error_of_ours():
    """Codes other than SCIP_OKAY do not pass in silence."""
    with pytest.raises(SolverError, match="-1"):
        check(-1)
