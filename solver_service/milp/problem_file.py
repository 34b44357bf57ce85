"""A job's model as an MPS file, so that a run can be looked at and repeated with another solver."""

from typing import NoReturn

import numpy as np

from shared.contracts import JobSpec
from shared.errors import ErrorCode, SpecError
from shared.objectives import sample_weights
from shared.snapshot import Snapshot
from solver_service.milp.backends.registry import write_mps
from solver_service.milp.core.network import network_of
from solver_service.milp.core.problem import problem_of
from solver_service.milp.core.requirements import STYLES, requirements_of
from solver_service.milp.formulation.compact import NO_CUTS, compact_model
from solver_service.milp.formulation.constraints.constrained_model import constrained_model
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.formulation.reach import size_of
from solver_service.milp.formulation.reference import reference_model
from solver_service.milp.formulation.relu_block import block_model
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.presolve.screening import screen

MOST_NONZEROS = 500_000
"""A model with more coefficients is not written: its file would be larger than some 20 MB."""


def mps(snapshot: Snapshot, spec: JobSpec) -> bytes:
    """Write the job's model: the first h (d+1) columns are the changes of weights and biases in units of their radii.

    Samples that the box decides are left out, their cost is the objective's constant; cuts and folding, which change
    no optimum, are not there. Raises SpecError (`not_supported`, `too_large`) where there is no such file.
    """
    if spec.objective not in STYLES:
        _refuse(f"there is no MPS file of it: {spec.objective} is no linear objective", ErrorCode.NOT_SUPPORTED)
    if snapshot.is_final_identity:
        _check_size(_fewest_nonzeros(snapshot))  # before anything is built
        return write_mps(_model(snapshot, spec))
    if spec.moves_tail:
        _refuse("there is no MPS file of it: with a free tail there is no linear model", ErrorCode.NOT_SUPPORTED)
    network = network_of(snapshot, spec)
    if spec.constraints or not all(activation.piecewise_linear for activation in network.activations):
        detail = "there is no MPS file of it: constraints and smooth activations behind a tail have no linear model"
        _refuse(detail, ErrorCode.NOT_SUPPORTED)
    _check_size(round(size_of(network).nonzeros))
    return write_mps(block_model(network, spec.goal).model)


def _model(snapshot: Snapshot, spec: JobSpec) -> LinearModel:
    problem = problem_of(snapshot, spec)
    requirements = requirements_of(problem)
    _check_size(nonzeros(problem, requirements) * (3 if problem.beyond_box else 1))
    if spec.solver.formulation == "reference":
        return reference_model(problem, requirements)
    screened = screen(requirements)
    if problem.beyond_box:
        return constrained_model(problem, screened, NO_CUTS, problem.constraints).model
    return compact_model(problem, screened.requirements, constant=screened.cost)


def _fewest_nonzeros(snapshot: Snapshot) -> int:
    """How many coefficients the rows of all samples have at least: each has a rival, or a unit of its own."""
    filled = np.count_nonzero(snapshot.inputs, axis=1)[sample_weights(snapshot) > 0]
    return int(filled.sum()) * max(1, snapshot.outputs - 1)


def _check_size(coefficients: int) -> None:
    if coefficients > MOST_NONZEROS:
        detail = f"the model has {coefficients:,} coefficients, at most {MOST_NONZEROS:,} are written"
        _refuse(detail, ErrorCode.TOO_LARGE)


def _refuse(detail: str, code: ErrorCode) -> NoReturn:
    raise SpecError(detail, field="id", code=code)
