"""Bounds that cost little: conflicts between samples, and the relaxation of the compact model."""

from dataclasses import replace

from solver_service.milp.bounds.relaxation import Relaxation, relax
from solver_service.milp.core.solution import is_integral, safe_bound
from solver_service.milp.final_layer.job import Job
from solver_service.milp.formulation.compact import Cuts, compact_model, cuts_model
from solver_service.milp.formulation.conflicts import pair_cuts
from solver_service.milp.formulation.model import LinearModel

RELAXATION_SHARE = 0.25


def bound_by_conflicts(job: Job) -> Cuts:
    """What pairs of samples prove by themselves, and the cuts that it took."""
    requirements = job.screened.requirements
    cuts = pair_cuts(job.space, requirements)
    return cuts.select(_relax(job, cuts_model(requirements, cuts, constant=job.screened.cost)).used)


def bound_by_relaxation(job: Job, cuts: Cuts) -> LinearModel:
    """The compact model; its LP relaxation's bound, which heuristics may meet, also tells which rows lead."""
    model = compact_model(job.space, job.screened.requirements, constant=job.screened.cost, cuts=cuts)
    return replace(model, leading=_relax(job, model).used)


def _relax(job: Job, model: LinearModel) -> Relaxation:
    budget = job.budget().share(RELAXATION_SHARE)
    relaxation = relax(model, lambda: budget.over)
    job.incumbents.raise_bound(safe_bound(relaxation.bound, integral=is_integral(job.problem)))
    return relaxation
