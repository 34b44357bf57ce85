"""Loops that change a batch after `watch`: what jobs hold is not what is trained on, and the cure is said."""

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool
from trainer import Tunneller
from trainer.stalls.doubts import worse_than_constant

N = 200
GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(N, 6, generator=GENERATOR) + 2
Y = ((X - 2) @ torch.randn(6, 4, generator=GENERATOR)).argmax(1)
R = 100 + 40 * (X @ torch.randn(6, 1, generator=GENERATOR))
SAYS = "the loop changes the inputs after watch()"
ASKS = "the model does worse on the kept samples than a constant would"


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs))


def run(
    change: Callable[[Tensor], Any] = lambda x: x,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    targets: Tensor = Y,
    outputs: int = 4,
    made: Callable[[nn.Module], Any] = lambda model: model,
    batch: int = 50,
    **options: Any,
) -> tuple[Tunneller, nn.Module, list[str]]:
    """A loop that changes inputs, or what the loss makes of targets; the lines of its summary."""
    model = network(outputs)
    runs = made(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X.clone(), targets), batch, shuffle=True)
    settings: dict[str, Any] = {"validate": lambda: 0.0, "mode": "min", "patience": 5, "cooldown": 0, "sync": True}
    with Tunneller(model, optimizer=optimizer, client=FakePool().client(), **settings | options) as found:
        for _ in range(12):
            for x, y in found.watch(loader):
                optimizer.zero_grad()
                loss(runs(change(x)), y).backward()
                optimizer.step()
                assert runs is not model or not model._forward_pre_hooks
            found.step(1.0)
            assert not model._forward_pre_hooks
    return found, model, str(found.summary()).splitlines()


INPUTS: dict[str, tuple[Callable[[Tensor], Any], dict[str, Any]]] = {
    "scaled": (lambda x: (x - 3) / 2, {}),
    "by 255": (lambda x: x / 255, {}),
    "upside down": (lambda x: 1 - x, {}),
    "in place": (lambda x: x.sub_(2.0), {}),
    "logarithms": (lambda x: (x + 10).log(), {}),
    "of the batch": (lambda x: (x - x.mean(0)) / x.std(0), {}),
    "in half precision": (lambda x: ((x - 3) / 2).half().float(), {}),
    "of images": (lambda x: ((x - 3) / 2)[:, None, None], {"made": lambda model: nn.Sequential(nn.Flatten(), model)}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_the_loop_changes_are_told_of_with_the_cure(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once, after a few batches; the loop goes on."""
    change, options = INPUTS[name]
    with caplog.at_level(logging.WARNING, logger="gdsolver"):
        run(change, **options)
    told = [record.message for record in caplog.records if SAYS in record.message]
    assert len(told) == 1
    assert "tunneller.observe(inputs, targets)" in told[0]


def flipped(x: Tensor) -> Tensor:
    return torch.where(torch.rand(len(x), 1) < 0.5, x.flip(1), x)


SAME: dict[str, tuple[Callable[[Tensor], Any], dict[str, Any]]] = {
    "as they are": (lambda x: x, {}),
    "moved, copied": (lambda x: x.clone().double().float().contiguous(), {}),
    "in half precision": (lambda x: x.bfloat16().float(), {}),
    "noise": (lambda x: x + 0.1 * torch.randn_like(x), {}),
    "flipped, some rows": (flipped, {}),
    "flipped, some batches": (lambda x: x.flip(1) if torch.rand(()) < 0.5 else x, {}),
    "a factor now and then": (lambda x: x * 1.5 if torch.rand(()) < 0.5 else x, {}),
    "mixed": (lambda x: 0.7 * x + 0.3 * x[torch.randperm(len(x))], {}),
    "dropped": (F.dropout, {}),
    "in another order": (lambda x: x.flip(0), {}),
    "a batch of few": (lambda x: x, {"batch": 3}),
    "by a split": (
        lambda x: (x - 3) / 2,
        {"split": lambda batch: (((batch[0] - 3) / 2,), {}, batch[1])},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_augmentation_does_is_no_fault(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said: jobs on what the loader gives are as good."""
    change, options = SAME[name]
    with caplog.at_level(logging.WARNING, logger="gdsolver"):
        run(change, **options)
    assert not [record.message for record in caplog.records if SAYS in record.message or ASKS in record.message]


def squared(scale: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda out, y: F.mse_loss(out, scale(y))


TARGETS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, int, dict[str, Any]]] = {
    "standardised": (squared(lambda y: (y - 100) / 40), R, 1, {}),
    "logarithms": (squared(lambda y: (y - R.min() + 1).log()), R - R.min() + 1, 1, {}),
    "labels from 1": (lambda out, y: F.cross_entropy(out, y - 1), Y + 1, 5, {}),
    "labels the other way round": (
        lambda out, y: F.binary_cross_entropy_with_logits(out.squeeze(1), 1.0 - y),
        (Y % 2),
        1,
        {"task": "binary"},
    ),
    "rates": (F.poisson_nll_loss, (R / 10).clamp(min=0).round(), 1, {}),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_that_the_loop_changes_are_asked_about(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A trained model that is worse than a constant on its own samples, at two stalls running."""
    loss, targets, outputs, options = TARGETS[name]
    with caplog.at_level(logging.WARNING, logger="gdsolver"):
        _, _, summary = run(loss=loss, targets=targets, outputs=outputs, patience=2, **options)
    told = [record.message for record in caplog.records if ASKS in record.message]
    assert len(told) == 1
    assert "tunneller.observe(inputs, targets)" in told[0]
    assert any(f"hint: {ASKS}" in line for line in summary)


@pytest.mark.parametrize("name", ["numbers", "classes", "labels"])
def test_a_model_that_learns_its_targets_is_not_asked_about(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The control: the same with targets as the loss takes them."""
    loss, targets, outputs = {
        "numbers": (F.mse_loss, (R - 100) / 40, 1),
        "classes": (F.cross_entropy, Y, 5),
        "labels": (F.binary_cross_entropy_with_logits, torch.stack([Y % 2, Y // 2], 1).float(), 2),
    }[name]
    task: Any = {"task": "multilabel"} if name == "labels" else {}
    with caplog.at_level(logging.WARNING, logger="gdsolver"):
        run(loss=loss, targets=targets, outputs=outputs, patience=2, **task)
    assert not [record.message for record in caplog.records if ASKS in record.message]


@pytest.mark.parametrize("task", ["regression", "classification", "binary", "multilabel"])
def test_what_a_constant_does_is_not_worse_than_a_constant(task: Any) -> None:
    """Nor is what chance does, whatever the shares of the classes are: 40 draws each."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        outputs = {"classification": 5, "binary": 1}.get(task, 3)
        shape = (300, 3) if task in ("regression", "multilabel") else 300
        rare = (rng.random(shape) ** 4 * (5 if task == "classification" else 2)).astype(np.int64)
        targets = rng.exponential(size=shape).astype(np.float32) if task == "regression" else rare
        seen = Snapshot(task, np.zeros((300, 2), np.float32), targets, np.zeros((outputs, 2), np.float32))
        chance = rng.permutation(targets) if task == "regression" else rng.normal(size=(300, outputs))
        for scores in (np.full((300, outputs), targets.mean()), 0.1 * chance + 0.9 * targets.mean()):
            assert not worse_than_constant(seen, scores.astype(np.float32))


def test_the_look_leaves_no_trace() -> None:
    """Copies of the model that are made while it lasts have a hook that does nothing; the bits are the same."""
    copies: list[nn.Module] = []

    def copied(model: nn.Module) -> Any:
        def call(x: Tensor) -> Tensor:
            copies.extend([copy.deepcopy(model), pickle.loads(pickle.dumps(model))])
            return model(x)  # type: ignore[no-any-return]

        return call

    _, model, _ = run(lambda x: x + torch.randn_like(x), made=copied)
    _, plain, _ = run(lambda x: x + torch.randn_like(x))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    for made in copies[:2]:
        assert made(X).shape == (N, 4)


def test_a_compiled_model_stays_whole() -> None:
    """The hook is no reason for a break in the graph, or to compile again once it is gone."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    run(lambda x: x / 2, made=lambda model: torch.compile(model, backend=backend, fullgraph=True, dynamic=False))
    assert len(graphs) == 1
