"""What users ask answers for: constraints by name, requirements, and what is said of slips in them."""

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gdsolver
from gdsolver import (
    Grid,
    Levels,
    MaxNonzero,
    MinAccuracy,
    Monotone,
    MovementCost,
    NonNegative,
    PrecisionFloor,
    RateGap,
    RecallFloor,
    Tunneller,
)
from shared.contracts import Constraint, JobSpec
from tests.unit.trainer.fakes import FakePool
from trainer.adoption.requirements import broken, parse
from trainer.pool.constraints import TYPES, read_constraints

NAMED: list[tuple[Constraint, dict[str, Any]]] = [
    (MinAccuracy(0.9), {"type": "min_accuracy", "value": 0.9}),
    (RecallFloor(3, 0.9), {"type": "recall_floor", "value": 0.9, "classes": [3]}),
    (RecallFloor([2, 7], 0.8, groups=0), {"type": "recall_floor", "value": 0.8, "classes": [2, 7], "groups": [0]}),
    (RecallFloor(value=0.7), {"type": "recall_floor", "value": 0.7}),
    (PrecisionFloor(1, 0.9), {"type": "precision_floor", "value": 0.9, "classes": [1]}),
    (RateGap(0.02), {"type": "group_rate_gap", "value": 0.02}),
    (NonNegative(classes=1), {"type": "nonnegative", "value": 0, "classes": [1]}),
    (Monotone(-1, classes=0, indices=4), {"type": "monotone", "value": -1, "classes": [0], "indices": [4]}),
    (MaxNonzero(40), {"type": "max_nonzero", "value": 40}),
    (Grid(0.125, indices=(0, 1)), {"type": "grid", "value": 0.125, "indices": [0, 1]}),
    (Levels([-0.5, 0, 0.5]), {"type": "levels", "levels": [-0.5, 0, 0.5]}),
    (MovementCost(0.5), {"type": "movement_cost", "value": 0.5}),
]


@pytest.mark.parametrize(("named", "given"), NAMED, ids=lambda one: one.type if isinstance(one, Constraint) else "")
def test_a_name_stands_for_a_dict(named: Constraint, given: dict[str, Any]) -> None:
    """Both make the same constraint, with the same fields said."""
    assert read_constraints([named, given]) == (named, named)
    assert named.model_dump(exclude_unset=True) == Constraint.model_validate(given).model_dump(exclude_unset=True)


def test_every_type_has_a_name() -> None:
    """A type that the contract gets has one here, too, and `gdsolver` exports it."""
    assert {named.type for named, _ in NAMED} == set(TYPES)
    assert {"RecallFloor", "RateGap", "MovementCost"} <= set(gdsolver.__all__)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: RecallFloor(3, 1.2),
            r"RecallFloor.value: 1.2 does not fit recall_floor; expected a share from 0",
        ),
        (lambda: RecallFloor(3), r"RecallFloor.value: missing; recall_floor needs a share"),
        (lambda: RecallFloor(0.9), r"RecallFloor.classes is 0.9; use a number such as 3.*value=0.9"),
        (lambda: RecallFloor("cat", 0.9), r"RecallFloor.classes is 'cat'; use a number"),
        (lambda: RecallFloor({3: 1}, 0.9), r"RecallFloor.classes is \{3: 1\}; use a number"),
        (lambda: RecallFloor(True, 0.9), r"RecallFloor.classes is True; use a number"),
        (lambda: RecallFloor(np.array([True, False]), 0.9), r"RecallFloor.classes is array.*; use a number"),
        (lambda: RecallFloor(torch.tensor([True, False]), 0.9), r"RecallFloor.classes is tensor.*; use a number"),
        (lambda: RecallFloor(np.array([0.5]), 0.9), r"RecallFloor.classes is array.*; use a number"),
        (lambda: RateGap(float("nan")), r"RateGap.value is nan: .*must be finite"),
        (lambda: Monotone(2), r"Monotone.value: 2 does not fit monotone; expected 1 .* or -1"),
        (lambda: Levels([]), r"Levels.levels is \[\]: .*at least 1"),
        (lambda: MaxNonzero(1.5), r"MaxNonzero.value: 1.5 does not fit max_nonzero; expected a whole number"),
    ],
)
def test_a_slip_is_told_where_it_is_made(make: Callable[[], Constraint], told: str) -> None:
    """The error names the argument and what would do."""
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize(
    "several", [np.array([0, 2]), torch.tensor([0, 2]), range(0, 4, 2), (0, np.int64(2))], ids=type
)
def test_numbers_of_any_library_are_classes(several: Iterable[int]) -> None:
    """As a list of them."""
    assert RecallFloor(several, 0.1) == RecallFloor([0, 2], 0.1)
    assert RecallFloor(torch.tensor(2), 0.1) == RecallFloor(np.int64(2), 0.1) == RecallFloor(2, 0.1)


def test_a_constraint_goes_into_a_spec() -> None:
    """Jobs of one's own take them as well, and send what the dict would have sent."""
    given = {"objective": "ramp", "radius": 0.1}
    spec = JobSpec.model_validate({**given, "constraints": [RecallFloor(3, 0.9)]})
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_score_that_is_not_there_keeps_nothing() -> None:
    """The recall of a class without samples is None, or NaN; what is no number is named."""
    required = parse({"recall": 0.5})
    assert broken(required, {"recall": None}) == broken(required, {"recall": math.nan}) == ("recall >= 0.5",)
    assert broken(required, {"recall": torch.tensor(0.5)}) == ()
    with pytest.raises(ValueError, match=r"require names 'recall', and validate\(\) returns 'n/a' for it"):
        broken(required, {"recall": "n/a"})


def test_a_mapping_says_least_values() -> None:
    """`require` takes names and least values, as well as sentences."""
    assert parse({"recall_bird": 0.9, "gap": "<= 0.1"}) == parse(["recall_bird >= 0.9", "gap <= 0.1"])
    assert broken(parse({"recall_bird": 0.9}), {"recall_bird": 0.89}) == ("recall_bird >= 0.9",)


@pytest.mark.parametrize("value", [np.float32(0.25), np.array(0.25), torch.tensor(0.25), Fraction(1, 4)], ids=type)
def test_least_values_are_numbers_of_any_library(value: Any) -> None:
    """As all other settings are."""
    assert parse({"recall_bird": value}) == parse({"recall_bird": 0.25})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"recall_bird": torch.ones(2)}, "give the least value as a number"),
        ({"recall_bird": 10**400}, "give the least value as a number"),
        ({"recall_bird": None}, "give the least value as a number"),
        ({"recall_bird": True}, "give the least value as a number"),
        ({"recall_bird": float("nan")}, "give the least value as a number"),
        ({"recall_bird": "0.9"}, "write it like 'recall_3 >= 0.75'"),
        (["recall_bird"], "write it like 'recall_3 >= 0.75'"),
        ([0.9], "require is 0.9; write it like"),
        (["recall >= 1e"], "require is 'recall >= 1e'; write it like"),
    ],
)
def test_what_cannot_be_required_is_told(given: Any, told: str) -> None:
    """With how to write it."""
    with pytest.raises(ValueError, match=told):
        parse(given)


def test_a_tunneller_asks_by_name() -> None:
    """Named constraints reach the job, and a model without the required recall is not adopted."""
    torch.manual_seed(0)
    targets = torch.arange(60) % 2
    inputs = nn.functional.one_hot(targets, 2).float() + 0.3 * torch.randn(60, 2)
    net = nn.Linear(2, 2)
    pool = FakePool()
    tunneller = Tunneller(
        net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        validate=lambda: {"accuracy": 0.5, "recall_1": 0.0},
        monitor="accuracy",
        data=(inputs, targets),
        client=pool.client(),
        constraints=[RecallFloor(1, 0.9)],
        require={"recall_1": 0.8},
        sync=True,
    )
    tunneller.close(polish=True, timeout=10.0)
    assert pool.specs[0].constraints == [Constraint(type="recall_floor", value=0.9, classes=[1])]
    assert any(event.detail == "does not keep recall_1 >= 0.8" for event in tunneller.history)
