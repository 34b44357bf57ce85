"""log_loss under floors and gaps at sizes without a model: kept, and close to the minimum without them."""

from typing import Any

import numpy as np
import pytest

from shared.constraints import violations
from shared.contracts import JobSpec, Limits
from shared.snapshot import Snapshot
from solver_service.milp.solve import solve

SAMPLES, WIDTH = 1500, 30


def overlapping(rare: float = 0.06) -> Snapshot:
    """Three classes of which the last is rare and lies between the others, in two groups."""
    rng = np.random.default_rng(3)
    targets = rng.choice(3, SAMPLES, p=[0.5, 0.5 - rare, rare])
    inputs = rng.normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    inputs[:, 0] += np.array([-1.5, 1.5, 0.0])[targets]
    group = rng.integers(0, 2, SAMPLES)
    inputs[:, 1] += 1.5 * group * (targets == 1)  # class 1 is easier to see in group 1
    return Snapshot(
        task="classification",
        inputs=inputs,
        targets=targets,
        weight=np.zeros((3, WIDTH), dtype=np.float32),
        bias=np.zeros(3, dtype=np.float32),
        group=group,
    )


@pytest.mark.parametrize(
    ("constraint", "most"),
    [
        ({"type": "recall_floor", "value": 0.5, "classes": [2]}, 1.33),
        ({"type": "recall_floor", "value": 0.6}, 1.42),
        ({"type": "group_rate_gap", "value": 0.02, "classes": [1]}, 1.05),
    ],
)
def test_what_is_asked_of_shares_costs_little_loss(constraint: dict[str, Any], most: float) -> None:
    """The minimum without it breaks it; the answer keeps it at a loss that is higher by a bounded part."""
    snapshot = overlapping()
    common: dict[str, Any] = {"objective": "log_loss", "l2": 1e-3, "radius": 3.0, "limits": Limits(time_s=4.0)}
    free = solve(snapshot, JobSpec(**common))
    spec = JobSpec(**common, constraints=[constraint])
    assert violations(spec.constraints, snapshot, free.weight, free.bias)
    bound = solve(snapshot, spec)
    assert not violations(spec.constraints, snapshot, bound.weight, bound.bias)
    assert bound.result.improved
    assert bound.result.objective.final <= most * free.result.objective.final
