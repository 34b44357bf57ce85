"""Tables as tasks: targets, inputs by the training rows alone, sample weights."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainer.tables import OTHERS, TRUTH, load, read, write
from trainer.errors import TaskError
from trainer.lab.tables.features import standardise

# --- targets ----------------------------------------------------------------------------------------------------------


def test_one_class_has_one_spelling(tmp_path: Path) -> None:
    """`1`, `1.0` and ` 1` are one class, and classes that are numbers are in the order of their size."""
    rows = [[*row[:2], ("1", "1.0", " 1", "2", "10", "10.0")[i % 6]] for i, row in enumerate(TRUTH)]
    task = load(tmp_path, rows, kind="classification")
    assert task.outputs == 3
    assert task.train.targets.bincount().argmax() == 0


def test_plus_and_minus_may_be_classes(tmp_path: Path) -> None:
    """So may `none`: only what never names anything counts as a gap among classes."""
    rows = [[*row[:2], ("+", "-", "none")[i % 3]] for i, row in enumerate(TRUTH)]
    assert load(tmp_path, rows, kind="classification").outputs == 3


def test_a_regression_s_target_is_standardised(tmp_path: Path) -> None:
    """Regression targets are float32 of mean 0 and spread 1 on the training part."""
    task = load(tmp_path, TRUTH)
    assert task.metric == "mse"
    assert task.train.targets.dtype == torch.float32
    assert task.train.targets.mean().item() == pytest.approx(0, abs=1e-6)
    assert task.train.targets.std().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("header", "line", "changes", "named"),
    [
        ("x,y", "{i},{i}", {"target": None}, "--target.*x, y"),
        ("x,y", "{i},{i}", {"target": "z"}, "no column 'z'.*x, y"),
        ("x,y", "{i},{i}", {"kind": None}, "--kind"),
        ("x,y", "{i},one", {"kind": "regression"}, r"column 'y'.*'one' is not a number \(line 2\)"),
        ("x,y", "{i},inf", {"kind": "regression"}, "column 'y'.*60 rows have no value"),
        ("x,y", "{i},5", {"kind": "regression"}, "the same in all training rows"),
        ("x,y", "{i},same", {}, "column 'y'.*1 different"),
        ("x,y", "{i},", {}, "column 'y'.*60 rows have no value here, the first in line 2"),
        ("x,y", "1,{i}", {"kind": "regression"}, "no column besides the target varies"),
        ("x,x,y", "{i},1,a{i}", {}, "column 'x' is there 2 times"),
        ("x,y", "{i}", {}, "line 2 has 1 fields, the header 2"),
        ("y", "{i}", {"kind": "regression"}, "no column besides the target"),
    ],
)
def test_table_mistakes_name_the_column(
    tmp_path: Path, header: str, line: str, changes: dict[str, Any], named: str
) -> None:
    """Whatever is wrong with a table, the error names column or line and the cure."""
    (tmp_path / "table.csv").write_text("\n".join([header, *(line.format(i=i) for i in range(60))]) + "\n")
    with pytest.raises(TaskError, match=named):
        read(f"csv:{tmp_path}/table.csv", **({"kind": "classification"} | changes))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"weights": "y"}, "--weights: 'y' is named by --target, too"),
        ({"drop": ("y",)}, "--drop: 'y' is named by --target, too"),
        ({"words": ("y",)}, "--words: 'y' is named by --target, too"),
        ({"drop": ("b", "w"), "weights": "w"}, "--drop: 'w' is named by --weights, too"),
        ({"words": ("w",), "weights": "w"}, "--words: 'w' is named by --weights, too"),
        ({"drop": ("a", "b"), "words": ("b",)}, "--words: 'b' is named by --drop, too"),
    ],
)
def test_a_column_is_one_thing_only(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    """Target, weights, left out, or words: an option that says another thing of a column names both."""
    name = write(tmp_path, [[*row, "1"] for row in TRUTH], header="a,b,y,w")
    with pytest.raises(TaskError, match=named):
        read(name, **options)


@pytest.mark.parametrize("odd", ["5 kg", "2026-01-40", "01/02/2026"])
@pytest.mark.parametrize("role", ["target", "weights"])
def test_no_cure_is_named_that_a_target_or_weights_cannot_take(tmp_path: Path, odd: str, role: str) -> None:
    """They can be neither left out nor taken as words, so nobody is told to."""
    cell = {"2026-01-40": "2026-01-{:02d}", "01/02/2026": "{0:02d}/{0:02d}/2026"}.get(odd, "{}")
    rows = [["1", str(i), odd if i == 3 else cell.format(1 + i % 12)] for i in range(60)]
    columns = {"target": "y"} if role == "target" else {"target": "b", "weights": "y"}
    with pytest.raises(TaskError, match=r"column 'y': .*(clean the cell|write them as)") as raised:
        read(write(tmp_path, rows, header="a,b,y"), **columns)
    assert "--drop" not in str(raised.value)
    assert "--words" not in str(raised.value)


@pytest.mark.parametrize("size", [1e-200, 1e-300, 1e-310, 1.0, 1e30])
def test_targets_of_any_size_are_standardised(tmp_path: Path, size: float) -> None:
    """Their squares neither vanish nor overflow; a constant is one at any size."""
    rows = [[*row[:2], repr((i % 9) * size)] for i, row in enumerate(TRUTH)]
    targets = load(tmp_path, rows).train.targets
    assert targets.mean().item() == pytest.approx(0, abs=1e-6)
    assert targets.std().item() == pytest.approx(1, abs=1e-6)
    with pytest.raises(TaskError, match="--target: the target is the same in all training rows"):
        load(tmp_path, [[*row[:2], repr(0.1 * size)] for row in TRUTH])


@pytest.mark.parametrize("word", ["nan", "-nan", "+NaN", "-NAN"])
def test_a_nan_is_no_class(tmp_path: Path, word: str) -> None:
    """With a sign or without it stands for no value: as a class it would have no place among numbers."""
    rows = [[*row[:2], ("3", "1", word, "2")[i % 4]] for i, row in enumerate(TRUTH)]
    with pytest.raises(TaskError, match="column 'y': 30 rows have no value here, the first in line 4"):
        load(tmp_path, rows, kind="classification")


@pytest.mark.parametrize(("label", "cure"), [("{i}.5", "use --kind regression"), ("n{i}x", "choose another --target")])
def test_too_many_classes_are_told_apart_from_numbers(tmp_path: Path, label: str, cure: str) -> None:
    """What is said of a hundred words is not what is said of a hundred numbers."""
    rows = [[*row[:2], label.format(i=i)] for i, row in enumerate(TRUTH)]
    with pytest.raises(TaskError, match=f"column 'y': holds 120 different classes; .*{cure}"):
        load(tmp_path, rows, kind="classification")


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_and_words_one_hot(tmp_path: Path) -> None:
    """Numbers have mean 0 and spread 1 on the training part, each word an input of 0 and 1."""
    inputs = load(tmp_path, [[row[0], ("red", "blue", "?")[i % 3], row[2]] for i, row in enumerate(TRUTH)]).train.inputs
    assert inputs.shape[1] == 4
    assert inputs[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert inputs[:, 0].std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(inputs[:, 1:].sum(dim=1), torch.ones(len(inputs)))


def test_gaps_become_the_median_and_are_marked() -> None:
    """By the training rows: a gap gets their median, and an input of its own if they have gaps."""
    values = np.array([1.0, 2.0, 9.0, math.nan, math.nan, 100.0])
    matrix = standardise(values, np.array([0, 1, 2, 3]))
    mean, spread = 4.0, np.std([1.0, 2.0, 9.0])
    np.testing.assert_allclose(matrix[:, 0], (np.array([1, 2, 9, 2, 2, 100]) - mean) / spread)
    np.testing.assert_array_equal(matrix[:, 1], [0, 0, 0, 1, 1, 0])
    assert standardise(values, np.array([0, 1, 2])).shape == (6, 1)


@pytest.mark.parametrize("values", [[0.1] * 6, [math.nan] * 6, [5.0, 5.0, 5.0, 5.0, 7.0, 9.0]])
def test_what_does_not_vary_in_training_is_left_out(values: list[float]) -> None:
    """Rounding errors of a constant are not blown up, and a later change has no scale to be measured on."""
    assert standardise(np.array(values), np.arange(4)).shape == (6, 0)


@pytest.mark.parametrize(
    "values", [[3e38, -3e38, 0.0, 1.0], [1e-300, 3e-300, 2e-300, 0.0], [1e16, 1e16 + 2, 1e16, 1e16]]
)
def test_extreme_numbers_are_standardised(values: list[float]) -> None:
    """Neither their squares nor their differences overflow, or vanish into NaN."""
    assert np.isfinite(standardise(np.array(values), np.arange(4))).all()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_only_training_rows_have_a_say(tmp_path: Path, fraction: float) -> None:
    """Whatever the other rows hold, the training part stays bit for bit the same: nothing leaks."""
    before = load(tmp_path, TRUTH, fraction=fraction)
    rows = [["999", "", str(5000 + i)] if i in OTHERS else row for i, row in enumerate(TRUTH)]
    after = load(tmp_path, rows, fraction=fraction)
    assert torch.equal(before.train.inputs, after.train.inputs)
    assert torch.equal(before.train.targets, after.train.targets)
    assert after.train.inputs.mean(dim=0).abs().max().item() < 1e-6


def test_a_text_column_of_identifiers_is_refused(tmp_path: Path) -> None:
    """Hundreds of different words are an identifier, not a feature."""
    rows = [[f"n{i}x", str(i % 2)] for i in range(400)]
    with pytest.raises(TaskError, match=r"column 'name'.*remove the column"):
        read(write(tmp_path, rows, header="name,y"), kind="classification")


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_count_in_loss_and_metric(tmp_path: Path) -> None:
    """Scaled to mean 1 over the training part, they weigh errors, and are no input."""
    name = write(tmp_path, [[*row, str(i % 4)] for i, row in enumerate(TRUTH)], header="a,b,y,w")
    task = read(name, weights="w")
    weights, targets = task.train.weights, task.train.targets
    assert weights is not None
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert task.train.inputs.shape[1] == 2
    mean = ((weights * targets[:, 0] ** 2).sum() / weights.sum()).item()
    assert task.loss(torch.zeros_like(targets), targets, weights).item() == pytest.approx(mean, rel=1e-5)
    model = task.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert task.score(model, task.train) == pytest.approx(mean, rel=1e-5)


def test_weights_of_classes_make_rare_ones_count(tmp_path: Path) -> None:
    """Accuracy is the share of the weight, cross-entropy weighs each sample."""
    rows = [[*row[:2], "ab"[i % 3 == 0], "2" if i % 3 == 0 else "1"] for i, row in enumerate(TRUTH)]
    task = read(write(tmp_path, rows, header="a,b,y,w"), kind="classification", weights="w")
    part, model = task.train, torch.nn.Linear(2, 2)
    assert part.weights is not None
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 1.0]))
    share = (part.weights[part.targets == 1].sum() / part.weights.sum()).item()
    assert task.score(model, part) == pytest.approx(share, rel=1e-6)
    outputs = model(part.inputs)
    each = torch.nn.functional.cross_entropy(outputs, part.targets, reduction="none")
    assert task.loss(outputs, part.targets, part.weights).item() == pytest.approx((each * part.weights).mean().item())


@pytest.mark.parametrize(
    ("weight", "named"), [("-1", "line 2 holds '-1'; weights are 0"), ("", "no value here"), ("x", "line 2 holds 'x'")]
)
def test_weights_that_make_no_sense_are_named(tmp_path: Path, weight: str, named: str) -> None:
    """Negative ones, gaps and words."""
    rows = [[*row, weight if i == 0 else "1"] for i, row in enumerate(TRUTH)]
    with pytest.raises(TaskError, match=f"column 'w': .*{named}"):
        read(write(tmp_path, rows, header="a,b,y,w"), weights="w")
