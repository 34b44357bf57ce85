"""Switches that a validation turns are put back; of outputs that cannot be read the cure is said, and it cures."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool
from trainer import Tunneller
from trainer.errors import DataError

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4


def tunneller(model: nn.Module, **settings: Any) -> Tunneller:
    options = {"validate": lambda: 0.0, "client": FakePool().client(), "mode": "min", "sync": True, "patience": 1}
    return Tunneller(model, optimizer=torch.optim.SGD(model.parameters(), 0.1), **(options | settings))


def test_switches_are_put_back() -> None:
    def switches() -> tuple[object, ...]:
        return torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.is_grad_enabled()

    before, turned = switches(), Mock()  # a list's entries would be put back

    def validate() -> float:
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(1 + torch.get_num_threads() % 2)
        torch.set_grad_enabled(False)
        turned(switches())
        return 0.0

    try:
        with tunneller(nn.Linear(6, 4), validate=validate, data=(X, Y)) as found:
            for _ in range(3):
                found.step(1.0)
        assert switches() == before
        assert turned.called
        assert all(call.args[0] != before for call in turned.call_args_list)
    finally:
        torch.set_float32_matmul_precision(str(before[0]))
        torch.set_num_threads(int(str(before[1])))
        torch.set_grad_enabled(True)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="a switch of later torch")
def test_a_precision_for_each_backend_is_left_alone() -> None:
    """Torch raises an error then where it is asked for one of all."""
    before, matmul = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    matmul.fp32_precision = "tf32"
    try:
        with tunneller(nn.Linear(6, 4), data=(X, Y)) as found:
            for _ in range(3):
                found.step(1.0)
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision(before)


@dataclass
class Scores:
    """An output of a class of one's own."""

    aux: float
    scores: Tensor


class Putting(nn.Module):
    """Puts out its scores among other things."""

    def __init__(self, *, mapping: bool) -> None:
        super().__init__()
        self.body, self.head, self.mapping = nn.Linear(6, 8), nn.Linear(8, 4), mapping

    def forward(self, x: Tensor) -> Any:
        scores = self.head(self.body(x).relu())
        return {"n": 1, "scores": scores, "aux": scores.mean()} if self.mapping else Scores(0.0, scores)


class Around(nn.Module):
    """The cure."""

    def __init__(self, model: Putting) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        found = self.model(x)
        return found["scores"] if self.model.mapping else found.scores


@pytest.mark.parametrize(
    ("mapping", "cure"), [(True, "self.model(x)['scores']"), (False, "self.model(x).scores")], ids=["mapping", "class"]
)
def test_of_an_output_that_cannot_be_read_the_cure_is_said_and_cures(mapping: bool, cure: str) -> None:
    model = Putting(mapping=mapping)
    with pytest.raises(DataError) as told:
        tunneller(model, data=(X, Y))
    assert str(told.value).endswith(f"a module around the model, whose forward returns the scores alone: {cure}")
    with tunneller(Around(model), data=(X, Y)) as found:
        assert "tunnels 'model.head'" in found.plan
