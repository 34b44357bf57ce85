"""What each extra constraint means on given weights, and which ones do not fit a snapshot."""

import numpy as np
import pytest

from shared.constraint_checks import check_constraints
from shared.constraints import movement_cost, violations
from shared.contracts import Constraint, JobSpec
from shared.errors import SpecError
from shared.objectives import EPSILON
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
        ({"type": "recall_floor", "value": 0.8, "classes": [0], "groups": [7]}, None),
        ({"type": "recall_floor", "value": 0.8, "groups": [7, 9]}, 0.8 - 1 / 3),
        ({"type": "precision_floor", "value": 1.0, "classes": [0, 2]}, None),
        ({"type": "precision_floor", "value": 0.5}, 0.5 - 1 / 3),
        ({"type": "precision_floor", "value": 1 / 3}, None),
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
        ({"type": "levels", "levels": [1, -0.3, 0]}, None),
        ({"type": "levels", "levels": [1, 0, -0.25]}, 0.05),
        ({"type": "levels", "levels": [0.75], "classes": [0], "indices": [0]}, 0.25),
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
        ({"type": "group_rate_gap", "value": 0.1, "groups": [7]}, "groups"),
        ({"type": "recall_floor", "value": 0.1, "groups": [8]}, "groups"),
        ({"type": "recall_floor", "value": 0.1, "groups": []}, "groups"),
        ({"type": "recall_floor"}, "value"),
        ({"type": "precision_floor", "value": 1.5}, "value"),
        ({"type": "precision_floor", "value": 0.5, "indices": [0]}, "indices"),
        ({"type": "precision_floor", "value": 0.5, "classes": [4]}, "classes"),
        ({"type": "levels"}, "levels"),
        ({"type": "levels", "levels": [1e39]}, "levels"),
        ({"type": "levels", "levels": [0.5], "value": 0.5}, "value"),
        ({"type": "grid", "value": 0.5, "levels": [0.5]}, "levels"),
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


@pytest.mark.parametrize("group", [None, np.zeros(5, dtype=np.int64)], ids=["none", "one"])
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


@pytest.mark.parametrize("kind", ["min_accuracy", "recall_floor", "group_rate_gap", "precision_floor"])
def test_a_regression_has_no_right_classes(kind):
    """The error says what to use instead."""
    snapshot = Snapshot(task="regression", inputs=np.ones((2, 1), np.float32), targets=np.ones((2, 1), np.float32),
                        weight=np.ones((1, 1), np.float32))  # fmt: skip
    with pytest.raises(SpecError, match="outliers"):
        check_constraints([Constraint(type=kind, value=0.5)], snapshot)


def test_labels_have_no_right_classes():
    """The error says to send each label by itself."""
    snapshot = Snapshot(task="multilabel", inputs=np.ones((2, 1), np.float32), targets=np.array([[0, 1], [1, 1]]),
                        weight=np.ones((2, 1), np.float32))  # fmt: skip
    with pytest.raises(SpecError, match="each label as a binary snapshot") as caught:
        check_constraints([Constraint(type="recall_floor", value=0.5)], snapshot)
    assert caught.value.field == "constraints.0.type"


def test_a_weight_has_one_grid():
    """Two grids may share a layer, not a weight."""
    first = Constraint(type="grid", value=0.5, classes=[0])
    check_constraints([first, Constraint(type="grid", value=0.3, classes=[1])], _snapshot())
    with pytest.raises(SpecError, match="one grid"):
        check_constraints([first, Constraint(type="grid", value=0.3)], _snapshot())
    levels = Constraint(type="levels", levels=[0, 1], classes=[1])
    check_constraints([first, levels], _snapshot())
    for clashing in (Constraint(type="grid", value=0.3, classes=[1]), levels):
        with pytest.raises(SpecError, match="one grid"):
            check_constraints([levels, clashing], _snapshot())


def _random(seed, task):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 12)), 1 if task == "binary" else int(rng.integers(2, 4))
    weights = (rng.integers(0, 4, n) / 2).astype(np.float32)
    weights[0] = 1.0
    return Snapshot(
        task=task,
        inputs=np.round(rng.normal(size=(n, 2)), 1).astype(np.float32),
        targets=rng.integers(0, max(k, 2), (n, 1) if task == "binary" and seed % 2 else n),
        weight=np.round(rng.normal(size=(k, 2)), 1).astype(np.float32),
        bias=np.zeros(k, np.float32),
        sample_weight=weights,
        group=rng.integers(0, 3, n),
    )


def _outcomes(snapshot):
    """(class, group, weight, right?, classes that it counts as called) of each sample, by plain loops."""
    found = []
    for n in range(snapshot.samples):
        own = [float(sum(a * float(b) for a, b in zip(row.tolist(), snapshot.inputs[n], strict=True)))
               for row in snapshot.weight]  # fmt: skip
        scores = [0.0, *own] if snapshot.task == "binary" else own
        y = int(snapshot.targets.ravel()[n])
        right = all(scores[y] - s >= EPSILON for k, s in enumerate(scores) if k != y)
        beaten = [any(s - scores[c] >= EPSILON for k, s in enumerate(scores) if k != c) for c in range(len(scores))]
        called = [c for c, lost in enumerate(beaten) if not lost]
        found.append((y, int(snapshot.group[n]), float(snapshot.sample_weight[n]), right, called))
    return found


def _rate(outcomes, chosen):
    total = sum(w for y, g, w, *_ in outcomes if chosen(y, g))
    return sum(w for y, g, w, right, _ in outcomes if chosen(y, g) and right) / total if total else None


@pytest.mark.parametrize("task", ["classification", "binary"])
@pytest.mark.parametrize("seed", range(40))
def test_shares_equal_plain_loops(seed, task):
    """Rates, gaps and precisions of random layers, with ties, weights of 0 and empty cells."""
    snapshot = _random(seed, task)
    outcomes = _outcomes(snapshot)
    classes, groups = range(snapshot.classes), sorted({g for _, g, w, *_ in outcomes if w > 0})

    def short(**fields):
        constraints = [Constraint(**fields)]
        check_constraints(constraints, snapshot)
        return sum(violation.amount for violation in violations(constraints, snapshot, snapshot.weight, snapshot.bias))

    def least(rates):
        return max(0.0, 1 - min((rate for rate in rates if rate is not None), default=1.0))

    assert short(type="min_accuracy", value=1) == pytest.approx(1 - _rate(outcomes, lambda *_: True))
    recalls = [_rate(outcomes, lambda y, _, c=c: y == c) for c in classes]
    assert short(type="recall_floor", value=1) == pytest.approx(least(recalls))
    cells = [_rate(outcomes, lambda y, g, c=c, o=o: (y, g) == (c, o)) for c in classes for o in groups]
    assert short(type="recall_floor", value=1, groups=groups) == pytest.approx(least(cells))
    if len(groups) > 1:
        rates = [_rate(outcomes, lambda _, g, o=o: g == o) for o in groups]
        assert short(type="group_rate_gap", value=0) == pytest.approx(max(rates) - min(rates))
    precisions = []
    for c in classes:
        true = sum(w for y, _, w, right, _ in outcomes if y == c and right)
        false = sum(w for y, _, w, _, called in outcomes if y != c and c in called)
        precisions.append(true / (true + false) if true + false else None)
    assert short(type="precision_floor", value=1) == pytest.approx(least(precisions))


def test_what_counts_as_called_is_decided_against_the_constraint():
    """On the line between two classes a sample is called both, and right for none; out of both, it is called none."""
    line = _snapshot(inputs=np.float32([[1, 1, 0]]), targets=np.array([2]), group=None, sample_weight=None)
    assert _amounts(snapshot=line, type="precision_floor", value=0.5, classes=[0, 1]) == [0.5]
    assert _amounts(snapshot=line, type="precision_floor", value=0.5, classes=[2]) == []


def test_a_level_is_one_in_float32():
    """0.3 in float32 is the level 0.3; its neighbour is not."""
    weight = np.full((3, 3), 0.3, dtype=np.float32)
    assert _amounts(weight, type="levels", levels=[0.1, 0.3]) == []
    assert _amounts(np.nextafter(weight, np.float32(1)), type="levels", levels=[0.1, 0.3])
