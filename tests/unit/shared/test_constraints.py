"""What each extra constraint means on given weights, and which ones do not fit a snapshot."""

import numpy as np
import pytest

from shared.constraints import check_constraints, movement_cost, violations
from shared.contracts import Constraint, JobSpec
from shared.errors import SpecError
from shared.snapshot import Snapshot


def _snapshot(**tensors):
    """Five samples of three classes; under the identity all but the last are right."""
    common = {
        "inputs": np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        "weight": np.eye(3, dtype=np.float32),
        "targets": np.array([0, 1, 2, 0, 0]),
        "group": np.array([7, 7, 7, 9, 9]),
        "sample_weight": np.float32([1, 1, 1, 1, 2]),
    }
    return Snapshot(task="classification", **{**common, **tensors})


def _amounts(weight=None, snapshot=None, **constraint):
    snapshot = snapshot or _snapshot()
    weight = snapshot.weight if weight is None else np.float32(weight)
    constraints = [Constraint(**constraint)]
    check_constraints(constraints, snapshot)
    return [violation.amount for violation in violations(constraints, snapshot, weight, None)]


@pytest.mark.parametrize(
    ("constraint", "amount"),
    [
        ({"type": "min_accuracy", "value": 4 / 6}, None),
        ({"type": "min_accuracy", "value": 0.7}, 0.7 - 4 / 6),
        ({"type": "recall_floor", "value": 0.5}, None),
        ({"type": "recall_floor", "value": 0.8}, 0.3),
        ({"type": "recall_floor", "value": 1.0, "classes": [1, 2]}, None),
        ({"type": "group_rate_gap", "value": 2 / 3}, None),
        ({"type": "group_rate_gap", "value": 0.5}, 2 / 3 - 0.5),
        ({"type": "group_rate_gap", "value": 0.5, "classes": [0]}, 2 / 3 - 0.5),
    ],
    ids=str,
)
def test_shares_count_weighted_samples(constraint, amount):
    """Accuracy, recall and the groups' rates are shares of sample weight that is right; equality is enough."""
    assert _amounts(**constraint) == ([] if amount is None else [pytest.approx(amount)])


def test_samples_without_weight_do_not_count():
    """A wrong sample of weight 0 breaks nothing."""
    assert _amounts(snapshot=_snapshot(sample_weight=np.float32([1, 1, 1, 1, 0])), type="min_accuracy", value=1) == []


@pytest.mark.parametrize(
    ("constraint", "amount"),
    [
        ({"type": "nonnegative", "value": 0}, 0.3),
        ({"type": "nonnegative", "value": 0, "classes": [0]}, None),
        ({"type": "nonnegative", "value": 0, "classes": [1], "indices": [0, 1]}, None),
        ({"type": "monotone", "value": -1, "classes": [1], "indices": [2]}, None),
        ({"type": "monotone", "value": -1}, 1.0),
        ({"type": "monotone", "value": 1}, 0.3),
        ({"type": "max_nonzero", "value": 4}, None),
        ({"type": "max_nonzero", "value": 2}, 2.0),
        ({"type": "max_nonzero", "value": 0, "classes": [0], "indices": [1, 2]}, None),
        ({"type": "grid", "value": 0.1}, None),
        ({"type": "grid", "value": 0.5, "classes": [0, 2]}, None),
        ({"type": "grid", "value": 0.5}, float(np.float64(0.5) - np.float32(0.3))),
        ({"type": "movement_cost", "value": 5}, None),
    ],
    ids=str,
)
def test_constraints_on_weights_look_at_single_weights(constraint, amount):
    """`classes` choose rows, `indices` columns, and all are meant where one is left out."""
    weight = [[1, 0, 0], [0, 1, -0.3], [0, 0, 1]]
    assert _amounts(weight, **constraint) == ([] if amount is None else [pytest.approx(amount, abs=1e-7)])


def test_a_multiple_is_one_in_float32():
    """0.3 in float32 is on the grid of 0.1, although it is no multiple in exact arithmetic; its neighbour is not."""
    weight = np.full((3, 3), 0.3, dtype=np.float32)
    assert _amounts(weight, type="grid", value=0.1) == []
    assert _amounts(np.nextafter(weight, np.float32(1)), type="grid", value=0.1)


def test_movement_costs_what_the_selected_weights_move():
    """Prices of several constraints add up, and are part of what the job minimises."""
    snapshot = _snapshot()
    constraints = [
        Constraint(type="movement_cost", value=2, indices=[0]),
        Constraint(type="movement_cost", value=1, classes=[0]),
    ]
    weight = snapshot.weight + np.float32(0.5)
    assert movement_cost(constraints, snapshot, weight) == pytest.approx(0.5 * (2 * 3 + 3))
    spec = JobSpec(objective="zero_one", radius=1, constraints=constraints)
    assert spec.value(snapshot, snapshot.weight, None) == 2
    assert spec.value(snapshot, weight, None) == pytest.approx(spec.goal.value(snapshot, weight, None) + 4.5)


def test_a_violation_names_its_constraint():
    """As the spec counts them."""
    constraints = [Constraint(type="movement_cost", value=1), Constraint(type="max_nonzero", value=0)]
    (found,) = violations(constraints, _snapshot(), np.eye(3, dtype=np.float32), None)
    assert found.name == "constraints.1 (max_nonzero)"


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        ({"type": "min_accuracy", "value": 1.1}, "value"),
        ({"type": "min_accuracy", "value": 0.5, "classes": [0]}, "classes"),
        ({"type": "min_accuracy", "value": 0.5, "indices": [0]}, "indices"),
        ({"type": "recall_floor", "value": -0.1}, "value"),
        ({"type": "recall_floor", "value": 0.5, "classes": [3]}, "classes"),
        ({"type": "recall_floor", "value": 0.5, "classes": []}, "classes"),
        ({"type": "group_rate_gap", "value": 2}, "value"),
        ({"type": "group_rate_gap", "value": 0.1, "classes": [2]}, "classes"),
        ({"type": "nonnegative", "value": 0.5}, "value"),
        ({"type": "nonnegative", "value": 0, "indices": [-1]}, "indices"),
        ({"type": "monotone", "value": 0}, "value"),
        ({"type": "max_nonzero", "value": 1.5}, "value"),
        ({"type": "max_nonzero", "value": -1}, "value"),
        ({"type": "grid", "value": 0}, "value"),
        ({"type": "grid", "value": 1e-12}, "value"),
        ({"type": "grid", "value": 1, "indices": [3]}, "indices"),
        ({"type": "movement_cost", "value": -1}, "value"),
        ({"type": "movement_cost", "value": 1e10}, "value"),
    ],
    ids=str,
)
def test_what_does_not_fit_names_its_field(constraint, field):
    """The place in the list and the field are in the error."""
    with pytest.raises(SpecError) as caught:
        check_constraints([Constraint(type="movement_cost", value=1), Constraint(**constraint)], _snapshot())
    assert caught.value.field == f"constraints.1.{field}"


@pytest.mark.parametrize("group", [None, np.arange(5), np.zeros(5, dtype=np.int64)], ids=["none", "five", "one"])
def test_a_rate_gap_needs_two_groups(group):
    """The snapshot has to say who is who."""
    with pytest.raises(SpecError, match="group") as caught:
        _amounts(snapshot=_snapshot(group=group), type="group_rate_gap", value=0.1)
    assert caught.value.field == "constraints.0.type"


def test_a_class_that_has_no_samples_has_no_recall():
    """Named, it is refused; among all classes, it is passed over."""
    snapshot = _snapshot(targets=np.array([0, 1, 1, 0, 0]))
    assert _amounts(snapshot=snapshot, type="recall_floor", value=0) == []
    with pytest.raises(SpecError, match="class 2"):
        _amounts(snapshot=snapshot, type="recall_floor", value=0, classes=[2])


@pytest.mark.parametrize("kind", ["min_accuracy", "recall_floor", "group_rate_gap"])
def test_a_regression_has_no_right_classes(kind):
    """The error says what to use instead."""
    snapshot = Snapshot(task="regression", inputs=np.ones((2, 1), np.float32), targets=np.ones((2, 1), np.float32),
                        weight=np.ones((1, 1), np.float32))  # fmt: skip
    with pytest.raises(SpecError, match="outliers"):
        check_constraints([Constraint(type=kind, value=0.5)], snapshot)


def test_a_weight_has_one_grid():
    """Two grids may share a layer, not a weight."""
    first = Constraint(type="grid", value=0.5, classes=[0])
    check_constraints([first, Constraint(type="grid", value=0.3, classes=[1])], _snapshot())
    with pytest.raises(SpecError, match="one grid"):
        check_constraints([first, Constraint(type="grid", value=0.3)], _snapshot())
