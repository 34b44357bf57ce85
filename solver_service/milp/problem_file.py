"""A job's model as an MPS file, so that a run can be looked at and repeated with another solver."""

from typing import NoReturn

from shared.contracts import JobSpec
from shared.errors import ErrorCode, SpecError
from shared.snapshot import Snapshot
from solver_service.milp.backends.registry import write_mps
from solver_service.milp.formulation.compact import NO_CUTS, compact_model
from solver_service.milp.formulation.constrained import constrained_model
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.reference import reference_model
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.problem import problem_of
from solver_service.milp.reduction import screen
from solver_service.milp.requirements import requirements_of

MOST_NONZEROS = 500_000
"""A model with more coefficients is not written: its file would be larger than some 20 MB."""


def mps(snapshot: Snapshot, spec: JobSpec) -> bytes:
    """Write the job's model: the first h (d+1) columns are the changes of weights and biases in units of their radii.

    Samples that the box decides are left out, their cost is the objective's constant; cuts and folding, which change
    no optimum, are not there. Raises SpecError (`not_supported`, `too_large`) where there is no such file.
    """
    if not snapshot.is_final_identity or spec.objective == "mse":
        what = "mse is solved as least squares" if spec.objective == "mse" else "this is a hidden layer's job"
        _refuse(f"there is no MPS file of it: {what}", ErrorCode.NOT_SUPPORTED)
    return write_mps(_model(snapshot, spec))


def _model(snapshot: Snapshot, spec: JobSpec) -> LinearModel:
    problem = problem_of(snapshot, spec)
    requirements = requirements_of(problem)
    size = nonzeros(problem, requirements) * (3 if problem.beyond_box else 1)
    if size > MOST_NONZEROS:
        _refuse(f"the model has {size:,} coefficients, at most {MOST_NONZEROS:,} are written", ErrorCode.TOO_LARGE)
    if spec.solver.formulation == "reference":
        return reference_model(problem, requirements)
    screened = screen(requirements)
    if problem.beyond_box:
        return constrained_model(problem, screened, NO_CUTS, problem.constraints).model
    return compact_model(problem, screened.requirements, constant=screened.cost)


def _refuse(detail: str, code: ErrorCode) -> NoReturn:
    raise SpecError(detail, field="id", code=code)
