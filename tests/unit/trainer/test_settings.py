"""Settings that make no sense are told at once, by name and with the cure; those that make some are taken as meant."""

import inspect
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.errors import SpecError
from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.models import classes, kept, seen
from trainer import Tunneller
from trainer.errors import CaptureError, DataError
from trainer.pool.background import BackgroundWorker
from trainer.settings import TABLE
from trainer.snapshots.capture import Plan, called

INPUTS, TARGETS = classes(60)
STALLED = 1.0


def tunneller(pool: FakePool | None = None, **settings: Any) -> Tunneller:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    given = {"validate": lambda: 0.0, "mode": "min", "patience": 1, "cooldown": 0, "sync": True} | settings
    client = given.pop("client", (pool or FakePool()).client())
    return Tunneller(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), client=client, **given)


NOT_WHOLE: tuple[Any, ...] = (None, "a", 1.5, True, [1], float("nan"), float("inf"), torch.ones(2))
NO_NUMBER: tuple[Any, ...] = ("x", True, [0.1], float("nan"), torch.ones(2), 1j, {})
NO_FUNCTION: tuple[Any, ...] = (3, "x", [print])
WRONG: dict[str, tuple[Any, ...]] = {
    "validate": (None, *NO_FUNCTION),
    "client": (None, 3, "http://gateway:8000"),
    "monitor": (3, ["loss"]),
    "mode": ("maximum", 3, ["min"]),
    "split": NO_FUNCTION,
    "screen": NO_FUNCTION,
    "on_event": NO_FUNCTION,
    "tail": ("2", 3, [3], {"2": 1}.items()),
    "task": ("clasification", 3, ["binary"]),
    "objective": ("rampp", 3, ["ramp"]),
    "ignore_index": (2**70, -(2**63) - 1, 1e30, *NOT_WHOLE),
    "class_weight": (1.0, "12", {0: 1.0}, [[1.0], [2.0]], [-1.0, 2.0], [0.0, 0.0], [float("nan")], ["a"], []),
    "radius": (0.0, -1.0, float("inf"), *NO_NUMBER),
    "tail_radius": (-1.0, float("inf"), *NO_NUMBER),
    "require": (3, None),
    "constraints": (3, None),
    "patience": (0, "5", *NOT_WHOLE),
    "min_delta": (None, -1.0, *NO_NUMBER),
    "delta_mode": (None, "relative", 3),
    "cooldown": (-1, *NOT_WHOLE),
    "first_after": (0, *NOT_WHOLE[1:]),
    "time_s": (None, 0.0, 601.0, *NO_NUMBER),
    "samples": (0, *NOT_WHOLE),
    "keep": (0, *NOT_WHOLE),
    "keep_mb": (None, 0.0, *NO_NUMBER),
    "capture_s": (0.0, *NO_NUMBER),
    "fanout": (0, "all", *NOT_WHOLE),
    "sync": (None, "no", 2),
    "run": (3, "x" * 201, ["a"]),
    "seed": (-1, *NOT_WHOLE),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_that_makes_no_sense_is_named_at_construction(name: str, value: Any) -> None:
    """Of whatever type it is: a ValueError of one line, with what to use."""
    with pytest.raises(ValueError, match=rf"^{name} is .*; use ") as caught:
        tunneller(**{name: value})
    assert "\n" not in str(caught.value).replace(repr(value)[:80], "")


def test_every_setting_is_in_the_table() -> None:
    """All but what is looked at by itself."""
    parameters = set(inspect.signature(Tunneller).parameters)
    assert parameters - {"model", "optimizer", "data", "layer"} == set(TABLE) == set(WRONG)


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": torch.tensor(0.1), "tail_radius": np.float32(0.1)},
        {"samples": 1e2, "keep": np.int64(50), "seed": torch.tensor(3), "patience": 1.0},
        {"class_weight": torch.ones(4)},
        {"class_weight": np.ones(4), "time_s": np.float64(5)},
        {"require": {"accuracy": np.float32(0.1)}, "monitor": "accuracy", "validate": lambda: {"accuracy": 0.5}},
        {"keep_mb": float("inf"), "capture_s": float("inf"), "run": ""},
        {"tail": (part for part in (nn.ReLU(), "2")), "layer": "0"},
    ],
)
def test_numbers_of_any_library_are_taken(settings: dict[str, Any]) -> None:
    """As floats and whole numbers: jobs are as ever."""
    pool = FakePool()
    tunnel = tunneller(pool, **settings)
    tunnel.observe(INPUTS, TARGETS)
    tunnel.step(STALLED)
    tunnel.step(STALLED)
    tunnel.close()
    assert "answered" in [event.kind for event in tunnel.history]


def test_a_tail_that_is_not_in_the_model_is_named_at_construction() -> None:
    """With the layers that are."""
    with pytest.raises(CaptureError, match="'nope', which is no linear layer; use one of: 0, 2"):
        tunneller(tail=["nope"], layer="0")
    with pytest.raises(CaptureError, match="names LayerNorm"):
        tunneller(tail=[nn.LayerNorm(8)], layer="0")


def test_a_tail_without_one_layer_that_it_follows_is_named_at_construction() -> None:
    """With "auto" no layer is the one that the tail follows, whatever jobs are about."""
    for tail in (["2"], [nn.ReLU(), "2"], []):
        with pytest.raises(ValueError, match="tail goes with one layer, and layer is 'auto'"):
            tunneller(tail=tail, layer="auto")


@pytest.mark.parametrize("layer", [None, "0", "auto"])
def test_data_without_samples_is_named_at_construction(layer: str | None) -> None:
    """Whatever the layer."""
    with pytest.raises(DataError, match="data holds no samples"):
        tunneller(data=(INPUTS[:0], TARGETS[:0]), layer=layer)


def test_looking_without_samples_says_so() -> None:
    """Also where it is only asked in which order layers are called."""
    with pytest.raises(DataError, match="no samples"):
        called(nn.Sequential(nn.Linear(6, 4)), kept(INPUTS[:0], TARGETS[:0]), Plan(), ["0"])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_class_weights_of_another_number_are_named_at_construction(count: int) -> None:
    """Even if the classes beyond them have no sample yet."""
    with pytest.raises(DataError, match=f"class_weight has {count} entries for 4 classes"):
        tunneller(data=(INPUTS, TARGETS % 2), class_weight=[1.0] * count)
    tunneller(data=(INPUTS, TARGETS), class_weight=[1.0] * 4).close()


def test_class_weights_of_one_logit_are_two() -> None:
    """A weight for each label."""
    net = nn.Linear(6, 1)
    assert seen(net, INPUTS, TARGETS % 2, Plan(task="binary", class_weight=(1.0, 2.0))).captured
    with pytest.raises(DataError, match="class_weight has 3 entries for 2 classes"):
        seen(net, INPUTS, TARGETS % 2, Plan(task="binary", class_weight=(1.0, 2.0, 3.0)))


ONE_HOT = nn.functional.one_hot(TARGETS, 4)


@pytest.mark.parametrize(("task", "targets"), [("multilabel", ONE_HOT), ("regression", ONE_HOT.float())])
def test_class_weights_that_would_not_count_are_named(task: str, targets: torch.Tensor) -> None:
    """At construction where the task is said, else in the first batch."""
    with pytest.raises(ValueError, match=f"class_weight is .*task '{task}'"):
        tunneller(task=task, class_weight=[1.0, 50.0])
    unlike = targets.clone()
    unlike[::2, :2] = 1
    with pytest.raises(DataError, match=f"class_weight goes with classes.*task='{task}'"):
        tunneller(class_weight=[1.0, 50.0]).observe(INPUTS, unlike * (0.7 if task == "regression" else 1))


@pytest.mark.parametrize("score", [None, torch.ones(3), (0.5, 0.9), "good", {"loss": None}, np.ones(2)])
@pytest.mark.parametrize("function", ["validate", "step"])
def test_a_score_that_is_no_number_is_named(function: str, score: Any) -> None:
    """In the first step: a `validate` without a return, with a vector, with several numbers."""
    tunnel = tunneller(data=(INPUTS, TARGETS), **({"validate": lambda: score} if function == "validate" else {}))
    with pytest.raises(ValueError, match=rf"(?s)`{function}`.* is .*; return one number, or a dict"):
        tunnel.step(0.5 if function == "validate" else score)


def test_a_stall_that_is_dropped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the background thread stumbles over: the history says that the stall failed, and why."""

    def stumble(worker: BackgroundWorker, stall: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(BackgroundWorker, "_jobs", stumble)
    tunnel = tunneller(data=(INPUTS, TARGETS))
    tunnel.step(STALLED)
    tunnel.step(STALLED)
    tunnel.close()
    (failed,) = [event for event in tunnel.history if event.kind == "failed"]
    assert (failed.stall, failed.detail) == (1, "RuntimeError: a bug")
    assert "a bug" in str(tunnel.summary())


BROKEN: dict[str, dict[str, Any]] = {
    "a loader": {"data": [(INPUTS, TARGETS)]},
    "too few targets": {"data": (INPUTS, TARGETS[:3])},
    "classes that are not there": {"data": (INPUTS, TARGETS + 9)},
    "a constraint": {"constraints": ["acc >= 0.9"]},
    "a client": {"client": 3},
    "an objective that does not fit": {"data": (INPUTS, TARGETS), "objective": "mse"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tunneller_that_is_not_made_leaves_nothing_behind(name: str) -> None:
    """No thread, and no hook on the optimizer, whenever the constructor raises."""
    net = nn.Linear(6, 4)
    optimizer, threads = torch.optim.SGD(net.parameters(), lr=0.1), set(threading.enumerate())
    given = {"validate": lambda: 0.0, "mode": "min", "client": FakePool().client()} | BROKEN[name]
    with pytest.raises((ValueError, DataError, SpecError)):
        Tunneller(net, optimizer=optimizer, **given)
    assert set(threading.enumerate()) <= threads
    assert not optimizer._optimizer_step_post_hooks


def a_state() -> dict[str, Any]:
    with tunneller() as made:
        return made.state_dict()


STATE = a_state()
NO_STATES: dict[str, Any] = {
    "nothing": None,
    "text": "state",
    "an empty one": {},
    "one of another kind": {"format": "other"},
    **{f"without {name}": {key: STATE[key] for key in STATE if key != name} for name in ("run", "detector", "radii")},
    **{f"without {name}": {key: STATE[key] for key in STATE if key != name} for name in ("portfolio", "failures")},
    **{f"without {name}": {key: STATE[key] for key in STATE if key != name} for name in ("stalls", "step", "gd_step")},
    "an odd detector": STATE | {"detector": {"best": "x"}},
    "an odd reservoir": STATE | {"reservoir": {"random": {"bit_generator": "other"}}},
    "odd jobs": STATE | {"jobs": [{"job": "a"}]},
    "odd events": STATE | {"events": [3]},
    "odd radii": STATE | {"radii": 3},
}


@pytest.mark.parametrize("name", NO_STATES)
def test_what_is_no_state_is_refused_with_the_cure(name: str) -> None:
    """A ValueError that says what would be one, and nothing was taken from it."""
    tunnel = tunneller()
    before = tunnel.state_dict()
    with pytest.raises(ValueError, match=r"use what Tunneller\.state_dict\(\) gave"):
        tunnel.load_state_dict(NO_STATES[name])
    assert {**tunnel.state_dict(), "age_s": 0} == {**before, "age_s": 0}
