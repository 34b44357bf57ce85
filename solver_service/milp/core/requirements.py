"""One form for every linear objective: rows of the layer's outputs that should not fall below a need."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shared.objectives import Objective
from solver_service.milp.core.problem import Array, Index, Mask, Problem, Space

Style = Literal["count", "capped", "linear"]
STYLES: dict[str, Style] = {
    "zero_one": "count",
    "worst_class": "count",
    "worst_group": "count",
    "outliers": "count",
    "ramp": "capped",
    "hinge": "linear",
    "mae": "linear",
    "max_error": "linear",
    "quantile": "linear",
}
NO_UNIT = -1


@dataclass(frozen=True, eq=False)
class Requirements:
    """Rows `t_r = level_r + change of score[plus_r] - change of score[minus_r]`, each wanted to be at least `need`.

    Rows are gathered in groups (a sample; one label of a sample; for mae one output of a sample, for quantile one side
    of it; for max_error all rows). A group's shortfall
    is `max(0, need - t_r) / unit` over its rows, and its cost `cost_g` times: whether there is any (count), the
    shortfall up to 1 (capped), or the shortfall (linear). `plus` and `minus` name units, or -1 for none. `reach_r` is
    how far t_r can move inside the box, either way; both ends are attained (docs/formulations/reductions.md, "Reach").
    """

    style: Style
    need: float
    unit: float
    cost: Array
    sample: Index
    group: Index
    plus: Index
    minus: Index
    level: Array
    reach: Array

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.sample.size)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return int(self.cost.size)

    @property
    def low(self) -> Array:
        """The lowest value of each row inside the box."""
        return self.level - self.reach

    @property
    def high(self) -> Array:
        """The highest value of each row inside the box."""
        return self.level + self.reach

    @property
    def big_m(self) -> Array:
        """What lifts each row's need to its lowest value: `need - low`, the tightest big-M."""
        return self.need - self.low

    def values(self, space: Space, change: Array) -> Array:
        """Every row's t_r after a change of the space's shape."""
        # [n, h+1] with zeros last, for unit -1.
        moved = _padded(space.inputs @ (space.radius * change).T)
        return np.asarray(self.level + moved[self.sample, self.plus] - moved[self.sample, self.minus])

    def shortfalls(self, values: Array) -> Array:
        """Each group's largest `max(0, need - t_r) / unit`."""
        worst = np.zeros(self.groups)
        np.maximum.at(worst, self.group, (self.need - values) / self.unit)
        return worst

    def losses(self, shortfalls: Array) -> Array:
        """Each group's part of the objective, at given shortfalls."""
        match self.style:
            case "count":
                return self.cost * (shortfalls > 0)
            case "capped":
                return self.cost * np.minimum(shortfalls, 1.0)
        return self.cost * shortfalls

    def select(self, rows: Mask | Index) -> "Requirements":
        """The same groups with some of the rows."""
        names = ("sample", "group", "plus", "minus", "level", "reach")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def requirements_of(problem: Problem) -> Requirements:
    """State the objective as requirements, before any reduction; one that is not linear, such as mse, has no rows."""
    if problem.objective.name not in STYLES:
        nothing, nowhere = np.zeros(0), np.zeros(0, dtype=np.int64)
        return Requirements("linear", 0.0, 1.0, nothing, nowhere, nowhere, nowhere, nowhere, nothing, nothing)
    if problem.snapshot.task == "classification":
        return _margins(problem)
    return _errors(problem) if problem.snapshot.task == "regression" else _labels(problem)


def _margins(problem: Problem) -> Requirements:
    """Margins over every rival class: t_nk = s_y - s_k; a group is a sample."""
    targets = problem.targets.astype(np.int64)
    sample, minus = np.nonzero(np.arange(problem.units) != targets[:, None])
    return _right(problem, problem.cost, sample, sample, targets[sample], minus)


def _labels(problem: Problem) -> Requirements:
    """Labels 0 and 1 of single logits: t_nk = -s_k or s_k; a group is a label of a sample."""
    n, k = problem.scores.shape
    sample, unit = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
    positive = problem.targets.astype(np.int64).ravel() == 1
    plus, minus = np.where(positive, unit, NO_UNIT), np.where(positive, NO_UNIT, unit)
    return _right(problem, np.repeat(problem.cost, k), sample, np.arange(n * k), plus, minus)


def _right(problem: Problem, cost: Array, sample: Index, group: Index, plus: Index, minus: Index) -> Requirements:
    objective, scores = problem.objective, _padded(problem.scores)
    style = STYLES[objective.name]
    return Requirements(
        style=style,
        need=objective.need,
        unit=1.0 if style == "count" else objective.margin,
        cost=cost,
        sample=sample,
        group=group,
        plus=plus,
        minus=minus,
        level=scores[sample, plus] - scores[sample, minus],
        reach=_reach(problem, sample, plus, minus),
    )


def beating(problem: Problem, number: int) -> Requirements:
    """Rows `s_k - s_c >= EPSILON`, each a group by itself: which classes k beat class c on samples that are not of it.

    A class of a binary task is scored by the logit (1) or by nothing (0).
    """
    binary = problem.snapshot.task == "binary"
    unit = np.array([NO_UNIT, 0]) if binary else np.arange(problem.units)
    others = np.flatnonzero(problem.targets.reshape(len(problem.scores)) != number)
    rivals = np.delete(unit, number)
    sample, plus = np.repeat(others, rivals.size), np.tile(rivals, others.size)
    counting = replace(problem, objective=Objective("zero_one"))
    minus = np.full(sample.size, unit[number])
    return _right(counting, np.zeros(sample.size), sample, np.arange(sample.size), plus, minus)


def _errors(problem: Problem) -> Requirements:
    """Errors from both sides: t = tolerance -+ (s - y), where mae and max_error have tolerance 0."""
    n, k = problem.scores.shape
    count = problem.objective.name == "outliers"
    tolerance = problem.objective.tolerance if count else 0.0
    assert tolerance is not None, "Objective.check refuses outliers without a tolerance"
    sample = np.tile(np.repeat(np.arange(n), k), 2)
    unit = np.tile(np.arange(k), 2 * n)
    nowhere = np.full(n * k, NO_UNIT)
    plus, minus = np.concatenate([unit[: n * k], nowhere]), np.concatenate([nowhere, unit[: n * k]])
    error = (problem.scores - problem.targets.astype(np.float64)).ravel()
    level = tolerance + np.concatenate([error, -error])
    reach = _reach(problem, sample, plus, minus)
    # The largest error that the box allows: slacks are at most 1 in this unit.
    size = 1.0 if count else (float(np.max(reach - level)) or 1.0)
    group, cost = _error_groups(problem, sample, unit)
    return Requirements(
        style=STYLES[problem.objective.name],
        need=0.0,
        unit=size,
        cost=cost * size,
        sample=sample,
        group=group,
        plus=plus,
        minus=minus,
        level=level,
        reach=reach,
    )


def _error_groups(problem: Problem, sample: Index, unit: Index) -> tuple[Index, Array]:
    k = problem.scores.shape[1]
    level = problem.objective.quantile
    match problem.objective.name:
        case "outliers":
            return sample, problem.cost
        case "quantile":
            # The first half of the rows asks for s - y >= 0: what is short of it is a target above the output.
            each = np.repeat(problem.cost, k)
            return np.arange(sample.size), np.concatenate([level * each, (1 - level) * each])
        case "mae":
            return sample * k + unit, np.repeat(problem.cost, k)
    return np.zeros_like(sample), np.ones(1)


def _reach(problem: Problem, sample: Index, plus: Index, minus: Index) -> Array:
    reach = _padded(np.abs(problem.inputs) @ problem.radius.T)
    return np.asarray(reach[sample, plus] + reach[sample, minus])


def _padded(values: Array) -> Array:
    """A last column of zeros, which is what unit -1 finds."""
    return np.hstack([values, np.zeros((len(values), 1))])


def worst_rows(requirements: Requirements, values: Array) -> Index:
    """Each group's row of the lowest value."""
    # By group, the lowest value first: the first of each group is its worst.
    order = np.lexsort((values, requirements.group))
    _, first = np.unique(requirements.group[order], return_index=True)
    return np.asarray(order[first])
