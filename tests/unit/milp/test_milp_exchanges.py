"""Exact exchanges of one nonzero for another: no better pair is left, and the best support is found."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from shared.constraints import violations
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.core.problem import problem_of
from solver_service.milp.final_layer.convex.exchanges import Exchanges
from solver_service.milp.final_layer.convex.program import ConvexProgram
from solver_service.milp.solve import solve


def wide(seed: int, task: str = "regression", *, samples: int = 40, width: int = 14) -> Snapshot:
    """Columns that have most in common."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(samples, 4)) @ rng.normal(size=(4, width)) + 0.5 * rng.normal(size=(samples, width))
    truth = inputs[:, :5] @ rng.normal(size=5) + rng.normal(size=samples)
    return Snapshot(
        task="regression" if task == "regression" else "binary",
        inputs=inputs.astype(np.float32),
        targets=truth.astype(np.float32)[:, None] if task == "regression" else (truth > 0).astype(np.int64),
        weight=np.zeros((1, width), np.float32),
        bias=np.zeros(1, np.float32),
    )


def sparse(objective: str, most: int, **more: Any) -> JobSpec:
    asked = [{"type": "max_nonzero", "value": most}]
    fields = {"objective": objective, "radius": 20.0, "constraints": asked, "limits": {"nodes": 1, "time_s": 60}}
    return JobSpec.model_validate(fields | more)


def exchanges(snapshot: Snapshot, spec: JobSpec) -> Exchanges:
    problem = problem_of(snapshot, spec)
    silent = problem.scores - problem.inputs @ problem.center.T
    counted = np.ones(snapshot.weight.shape, dtype=bool)
    found = Exchanges.of(ConvexProgram(problem), silent, [(counted, 3)], ~counted)
    assert found is not None
    return found


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_no_exchange_is_left_where_exchanges_of_squares_end(seed: int, l2: float) -> None:
    """Scored exactly, with a ridge and without: no other column in any place of the support is better."""
    search = exchanges(wide(seed), sparse("mse", 3, l2=l2))
    end = search.exchanged(search.grown(np.array([], dtype=np.int64)), lambda: False)
    support = search.support(end)
    for leaves in range(3):
        for enters in np.setdiff1d(search.candidates, support):
            other = search.fit(np.append(np.delete(support, leaves), enters))
            assert other.value >= end.value * (1 - 2e-6)


@pytest.mark.parametrize(
    ("objective", "task"), [("mse", "regression"), ("huber", "regression"), ("log_loss", "binary")]
)
@pytest.mark.parametrize("seed", range(2))
def test_kicks_and_exchanges_find_the_best_support(seed: int, objective: str, task: str) -> None:
    """Of all supports of three columns, by brute force."""
    search, rng = exchanges(wide(seed, task), sparse(objective, 3)), np.random.default_rng(0)
    least = min(search.fit(np.array(support)).value for support in combinations(search.candidates, 3))
    best = search.exchanged(search.grown(np.array([], dtype=np.int64)), lambda: False)
    for _ in range(30):
        found = search.exchanged(search.kicked(best, rng), lambda: False)
        best = min(best, found, key=lambda fit: fit.value)
    assert best.value == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_a_job_with_many_more_columns_than_samples_is_no_worse_than_pursuit_and_exchanges(seed: int) -> None:
    """The script: orthogonal matching pursuit, then every exchange of one column for another that lowers squares."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(40, 10)) @ rng.normal(size=(10, 300)) + 1.5 * rng.normal(size=(40, 300))
    targets = inputs[:, :8] @ rng.normal(size=8) + rng.normal(size=40)
    snapshot = Snapshot(
        task="regression",
        inputs=inputs.astype(np.float32),
        targets=targets.astype(np.float32)[:, None],
        weight=np.zeros((1, 300), np.float32),
        bias=np.zeros(1, np.float32),
    )

    def left(support: list[int]) -> float:
        columns = np.column_stack([inputs[:, support], np.ones(40)])
        return float(np.mean((targets - columns @ np.linalg.lstsq(columns, targets, rcond=None)[0]) ** 2))

    support: list[int] = []
    for _ in range(3):
        support.append(min((j for j in range(300) if j not in support), key=lambda j: left([*support, j])))
    for place in (0, 1, 2) * 2:
        others = support[:place] + support[place + 1 :]
        support = [*others, min((j for j in range(300) if j not in others), key=lambda j: left([*others, j]))]
    found = solve(snapshot, sparse("mse", 3))
    assert not violations(sparse("mse", 3).constraints, snapshot, found.weight, found.bias)
    assert found.result.objective.final <= left(support) * (1 + 1e-5)
