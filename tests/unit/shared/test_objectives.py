"""The objectives against plain loops over samples: the definition that everything else is measured by."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.activations import Activation
from shared.errors import SpecError
from shared.objectives import EPSILON, OF_TASK, Objective, outputs
from shared.snapshot import Snapshot, TailLayer, Task
from tests.conftest import small_snapshot

ACTIVATIONS = ("identity", "relu", "leaky_relu:0.1", "hardtanh")


def activate(name: str, value: float) -> float:
    match name:
        case "relu":
            return max(0.0, value)
        case "leaky_relu:0.1":
            return value if value > 0 else 0.1 * value
        case "hardtanh":
            return min(1.0, max(-1.0, value))
    return value


def plain_outputs(snapshot: Snapshot) -> list[list[float]]:
    """The forward pass as loops over plain floats."""
    found = []
    for n in range(snapshot.samples):
        values = []
        for i, row in enumerate(snapshot.weight):
            total = sum(float(w) * float(g) for w, g in zip(row, snapshot.inputs[n], strict=True))
            total += 0.0 if snapshot.bias is None else float(snapshot.bias[i])
            total += 0.0 if snapshot.offset is None else float(snapshot.offset[n, i])
            values.append(activate(str(snapshot.activation), total))
        for layer in snapshot.tail:
            values = [
                activate(
                    str(layer.activation),
                    sum(float(w) * v for w, v in zip(row, values, strict=True))
                    + (0.0 if layer.bias is None else float(layer.bias[k])),
                )
                for k, row in enumerate(layer.weight)
            ]
        found.append(values)
    return found


def plain_margins(snapshot: Snapshot, n: int, scores: list[float]) -> list[float]:
    """What decides right and wrong of a sample: of its class, or of each label."""
    if snapshot.task == "classification":
        y = int(snapshot.targets[n])
        return [min(scores[y] - s for k, s in enumerate(scores) if k != y)]
    return [s if y == 1 else -s for s, y in zip(scores, np.atleast_1d(snapshot.targets[n]), strict=True)]


def plain_classification(objective: Objective, snapshot: Snapshot, n: int, scores: list[float]) -> float:
    """What a sample of weight 1 costs."""
    t = plain_margins(snapshot, n, scores)
    if objective.name == "log_loss":
        if snapshot.task == "classification":
            return math.log(sum(math.exp(s - scores[int(snapshot.targets[n])]) for s in scores))
        return sum(math.log(1 + math.exp(-one)) for one in t) / len(t)
    loss = [max(0.0, 1 - one / objective.margin) for one in t]
    parts = {"zero_one": [float(one < EPSILON) for one in t], "ramp": [min(1.0, one) for one in loss], "hinge": loss}
    return sum(parts[objective.name])


def plain_errors(objective: Objective, errors: list[float]) -> float:
    """What a regression's sample of weight 1 costs, errors y - s of all outputs."""
    d, q = objective.delta, objective.quantile
    sizes = [abs(e) for e in errors]
    match objective.name:
        case "max_error":
            return max(sizes)
        case "outliers":
            return float(any(e > (objective.tolerance or 0) for e in sizes))
        case "huber":
            losses = [e * e / 2 if e <= d else d * (e - d / 2) for e in sizes]
        case "quantile":
            losses = [q * e if e > 0 else (1 - q) * -e for e in errors]
        case "mse" | "trimmed_mse":
            losses = [e * e for e in sizes]
        case _:
            losses = sizes
    return sum(losses) / len(losses)


def plain_worst(objective: Objective, snapshot: Snapshot, w: list[float]) -> float:
    """The largest share of wrong weight among classes, or classes within groups."""
    totals: dict[tuple[int, ...], float] = {}
    wrong: dict[tuple[int, ...], float] = {}
    for n, scores in enumerate(plain_outputs(snapshot)):
        cell = (int(np.atleast_1d(snapshot.targets[n])[0]),)
        if objective.name == "worst_group":
            assert snapshot.group is not None
            cell += (int(snapshot.group[n]),)
        totals[cell] = totals.get(cell, 0.0) + w[n]
        wrong[cell] = wrong.get(cell, 0.0) + w[n] * (plain_margins(snapshot, n, scores)[0] < EPSILON)
    return max(wrong[cell] / total for cell, total in totals.items() if total > 0)


def plain_value(objective: Objective, snapshot: Snapshot) -> float:
    """An objective as its formula reads, sample by sample."""
    w = [1.0] * snapshot.samples if snapshot.sample_weight is None else [float(v) for v in snapshot.sample_weight]
    if objective.name in ("worst_class", "worst_group"):
        return plain_worst(objective, snapshot, w)
    costs = []
    for n, scores in enumerate(plain_outputs(snapshot)):
        if snapshot.task == "regression":
            errors = [float(y) - s for s, y in zip(scores, np.atleast_1d(snapshot.targets[n]), strict=True)]
            costs.append(plain_errors(objective, errors))
        else:
            costs.append(plain_classification(objective, snapshot, n, scores))
    if objective.name == "max_error":
        return max(c for c, v in zip(costs, w, strict=True) if v > 0)
    total = sum(v * c for v, c in zip(w, costs, strict=True))
    if objective.name in ("trimmed_mse", "trimmed_mae"):
        room = objective.trim * sum(w) * (1 + 1e-9)
        for n in sorted(range(len(w)), key=lambda n: (-costs[n], n)):
            room -= w[n]
            if room < 0:
                break
            total -= w[n] * costs[n]
    if objective.name in ("zero_one", "ramp", "hinge", "outliers"):
        return total
    return total / sum(w) + objective.l2 * sum(float(v) ** 2 for v in snapshot.weight.ravel())


def random_snapshot(seed: int, task: Task) -> Snapshot:
    rng = np.random.default_rng(seed)
    regression = task == "regression"
    n, d, h = rng.integers(1, 9), rng.integers(1, 5), rng.integers(2, 4)
    layers = []
    width = h
    for _ in range(rng.integers(0, 3)):
        out = int(rng.integers(2, 4))
        bias = rng.normal(size=out).astype(np.float32) if rng.random() < 0.5 else None
        layers.append(
            TailLayer(rng.normal(size=(out, width)).astype(np.float32), bias, Activation.parse(rng.choice(ACTIVATIONS)))
        )
        width = out
    if task == "binary":
        layers.append(TailLayer(rng.normal(size=(1, width)).astype(np.float32), None, Activation.parse("identity")))
        width = 1
    weights = rng.random(n).astype(np.float32)
    weights[rng.random(n) < 0.2] = 0.0
    weights[0] = 1.0
    labels = rng.integers(0, 2, (n, width) if task == "multilabel" or rng.random() < 0.5 else n)
    classes = rng.integers(0, width, n) if task == "classification" else labels
    return Snapshot(
        task=task,
        inputs=rng.normal(size=(n, d)).astype(np.float32),
        targets=rng.normal(size=(n, width)).astype(np.float32) if regression else classes,
        group=rng.integers(5, 8, n),
        weight=rng.normal(size=(h, d)).astype(np.float32),
        bias=rng.normal(size=h).astype(np.float32) if rng.random() < 0.5 else None,
        offset=rng.normal(size=(n, h)).astype(np.float32) if rng.random() < 0.5 else None,
        sample_weight=weights if rng.random() < 0.5 else None,
        activation=Activation.parse(rng.choice(ACTIVATIONS)),
        tail=tuple(layers),
    )


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3), st.floats(0, 0.9))
@settings(max_examples=150, deadline=None)
def test_every_objective_equals_its_formula(seed: int, margin: float, share: float) -> None:
    """All objectives of all tasks, through every activation and tail, equal the plain formula."""
    for task, names in OF_TASK.items():
        snapshot = random_snapshot(seed, task)
        for name in names:
            l2 = share if name == "log_loss" else 0.0
            objective = Objective(name, margin, 0.7, l2=l2, delta=margin, quantile=0.05 + share, trim=share)
            objective.check(snapshot)
            value = objective.value(snapshot, snapshot.weight, snapshot.bias)
            assert value == pytest.approx(plain_value(objective, snapshot), rel=1e-9, abs=1e-12)


def test_a_tie_is_an_error() -> None:
    """A class that does not win by more than epsilon has not won."""
    flat = replace(small_snapshot(), weight=np.zeros((3, 3), np.float32))
    assert Objective("zero_one").value(flat, flat.weight, flat.bias) == flat.samples


def test_objectives_are_refused_for_the_wrong_task() -> None:
    """An objective that does not fit the task names the ones that do."""
    with pytest.raises(SpecError, match="zero_one, ramp, hinge"):
        Objective("mae").check(small_snapshot())


def test_outliers_need_a_tolerance() -> None:
    """`outliers` without a tolerance is refused by name."""
    snapshot = random_snapshot(1, "regression")
    with pytest.raises(SpecError) as caught:
        Objective("outliers").check(snapshot)
    assert caught.value.field == "tolerance"


def test_outputs_use_float64() -> None:
    """Sums that float32 would lose are kept."""
    snapshot = Snapshot(
        task="regression",
        inputs=np.array([[1e8, 1.0, -1e8]], np.float32),
        targets=np.ones((1, 1), np.float32),
        weight=np.ones((1, 3), np.float32),
    )
    assert outputs(snapshot, snapshot.weight, None)[0, 0] == 1.0


def _line(targets: list[float], **more: object) -> Snapshot:
    """A regression whose outputs are all 0."""
    column = np.array(targets, np.float32)
    return Snapshot(
        task="regression",
        inputs=np.ones((column.size, 1), np.float32),
        targets=column,
        weight=np.zeros((1, 1), np.float32),
        **more,  # type: ignore[arg-type]
    )


def _at_zero(objective: Objective, snapshot: Snapshot) -> float:
    return objective.value(snapshot, snapshot.weight, snapshot.bias)


def test_a_trimmed_mean_divides_by_the_weight_of_all_samples() -> None:
    """Without trimming it is the mean; the largest errors go first."""
    snapshot = _line([1, 2, 3, 10])
    assert _at_zero(Objective("trimmed_mae", trim=0.25), snapshot) == 6 / 4
    assert _at_zero(Objective("trimmed_mse", trim=0.0), snapshot) == _at_zero(Objective("mse"), snapshot)
    assert _at_zero(Objective("trimmed_mae", trim=0.0), snapshot) == _at_zero(Objective("mae"), snapshot)


def test_trimming_ends_at_the_first_sample_that_does_not_fit() -> None:
    """Half of a sample is never dropped, and no lighter one behind it in its place."""
    heavy = _line([1, 2, 3], sample_weight=np.float32([1, 2, 1]))
    assert _at_zero(Objective("trimmed_mae", trim=0.5), heavy) == (1 + 4) / 4
    assert _at_zero(Objective("trimmed_mae", trim=0.74), heavy) == (1 + 4) / 4
    assert _at_zero(Objective("trimmed_mae", trim=0.75), heavy) == 1 / 4


def test_of_equal_errors_the_first_is_dropped() -> None:
    """Only their weights tell them apart."""
    ties = _line([2, 2, 0, 0], sample_weight=np.float32([1, 3, 1, 5]))
    assert _at_zero(Objective("trimmed_mae", trim=0.1), ties) == pytest.approx(2 * 3 / 10)


@pytest.mark.parametrize("task", ["classification", "binary", "multilabel"])
@pytest.mark.parametrize("size", [1e-38, 1.0, 3e38])
def test_log_loss_is_finite_whatever_the_scores(task: Task, size: float) -> None:
    """Scores that exp() could not take give a loss of their own size, or none."""
    width = {"classification": 3, "binary": 1, "multilabel": 3}[task]
    targets = {"classification": np.array([0, 1]), "binary": np.array([0, 1]), "multilabel": np.array([[0, 1, 1]] * 2)}
    snapshot = Snapshot(
        task=task,
        inputs=np.full((2, 1), size, np.float32),
        targets=targets[task],
        weight=np.linspace(-size, size, width, dtype=np.float32)[:, None],
    )
    assert 0 < _at_zero(Objective("log_loss"), snapshot) < 1e78


def test_log_loss_of_equal_scores_is_the_entropy_of_a_guess() -> None:
    """log K for classes, log 2 for a logit of 0."""
    flat = replace(small_snapshot(), weight=np.zeros((3, 3), np.float32))
    assert _at_zero(Objective("log_loss"), flat) == pytest.approx(math.log(3))


def test_l2_does_not_count_biases() -> None:
    """Only the block's weights are squared."""
    snapshot = small_snapshot()
    plain, priced = Objective("log_loss"), Objective("log_loss", l2=2.0)
    bias = np.full(3, 7, np.float32)
    difference = priced.value(snapshot, snapshot.weight, bias) - plain.value(snapshot, snapshot.weight, bias)
    assert difference == pytest.approx(2 * float((snapshot.weight.astype(float) ** 2).sum()))


def test_worst_class_looks_at_classes_with_weight_only() -> None:
    """A class whose samples weigh nothing has no rate."""
    base = small_snapshot()
    weightless = replace(base, sample_weight=np.float32(base.targets != 1))
    costs = Objective("zero_one").sample_costs(weightless, outputs(weightless, base.weight, base.bias))
    rates = [costs[base.targets == c].sum() / (base.targets == c).sum() for c in (0, 2)]
    assert _at_zero(Objective("worst_class"), weightless) == pytest.approx(max(rates))


@pytest.mark.parametrize("name", ["worst_class", "worst_group"])
def test_worst_rates_are_refused_for_labels(name: str) -> None:
    """The error says to send each label by itself."""
    with pytest.raises(SpecError, match="each label as a binary snapshot"):
        Objective(name).check(random_snapshot(3, "multilabel"))


def test_worst_group_needs_groups() -> None:
    """The tensor is named."""
    with pytest.raises(SpecError, match="`group`"):
        Objective("worst_group").check(small_snapshot())


def test_a_price_of_squares_goes_with_log_loss_only() -> None:
    """It would be silently dropped otherwise."""
    with pytest.raises(SpecError) as caught:
        Objective("hinge", l2=0.1).check(small_snapshot())
    assert caught.value.field == "l2"


def test_a_value_beyond_float64_is_refused() -> None:
    """Nothing finite can be said of such a job; large, but finite, values are taken."""
    layers = tuple(TailLayer(np.full((1, 1), 1e38, np.float32), None, Activation.parse("identity")) for _ in range(4))
    snapshot = replace(_line([1.0]), inputs=np.full((1, 1), 1e38, np.float32), weight=np.ones((1, 1), np.float32))
    Objective("mse").check(replace(snapshot, tail=layers[:2]))
    with pytest.raises(SpecError, match="beyond float64"):
        Objective("mse").check(replace(snapshot, tail=layers))


def test_sample_weights_that_carry_a_value_beyond_float64_are_named() -> None:
    """With weights of 1 the same job has a finite value, and so the weights are what has to change."""
    layers = tuple(TailLayer(np.full((1, 1), 1e38, np.float32), None, Activation.parse("identity")) for _ in range(3))
    heavy = np.full(1, 1e38, np.float32)
    snapshot = replace(_line([1.0]), inputs=np.full((1, 1), 1e30, np.float32), weight=np.ones((1, 1), np.float32))
    Objective("mse").check(replace(snapshot, tail=layers))
    with pytest.raises(SpecError) as caught:
        Objective("mse").check(replace(snapshot, tail=layers, sample_weight=heavy))
    assert caught.value.field == "sample_weight"
