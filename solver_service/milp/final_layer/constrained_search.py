"""Solutions under constraints beyond signs: where they come from, and what becomes of a solver's."""

from collections.abc import Callable

from solver_service.milp.backends.outcome import OnSolution
from solver_service.milp.core.problem import Array, Problem
from solver_service.milp.core.solution import TOLERANCE
from solver_service.milp.formulation.constraints.constrained_model import ConstrainedModel
from solver_service.milp.heuristics.programs.polish import polish
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.rounding.into_box import change_of


def best_solution(problem: Problem, built: ConstrainedModel, incumbents: Incumbents) -> Array | None:
    """The best solution so far in the model's columns; None while none keeps all constraints."""
    if not incumbents.feasible:
        return None
    return built.complete(problem, change_of(problem, incumbents.best.weight, incumbents.best.bias))


def polish_best(
    problem: Problem, built: ConstrainedModel, incumbents: Incumbents, should_stop: Callable[[], bool]
) -> None:
    """Make the most of what the best solution so far has decided."""
    solution = best_solution(problem, built, incumbents)
    if solution is not None:
        polish(problem, built, incumbents, solution, should_stop)


def taker(
    problem: Problem, built: ConstrainedModel, incumbents: Incumbents, should_stop: Callable[[], bool]
) -> OnSolution:
    """What to call with a solver's solutions: they are offered, and polished where rounding spoils them."""

    def take(solution: Array, _: float, nodes: int) -> None:
        change = solution[: problem.columns].reshape(problem.radius.shape)
        claimed = built.model.constant + float(built.model.objective @ solution)
        if incumbents.offer(change, nodes=nodes) > claimed + TOLERANCE * (1 + abs(claimed)):
            polish(problem, built, incumbents, solution, should_stop)

    return take
