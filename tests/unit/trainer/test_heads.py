"""Heads that people have: how outputs and targets are read as positions, and what is refused with which cure."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.objectives import Objective, outputs
from shared.snapshot import Task
from tests.unit.trainer.models import Made, kept, seen
from trainer.errors import TrainerError
from trainer.samples.reservoir import Reservoir
from trainer.snapshots.capture import Captured, Plan, look


def head(width: int, shape: str = "last") -> nn.Module:
    """A network on [N, ..., 6] with `width` outputs: along the last dimension, along dimension 1, or as [N, ...]."""
    torch.manual_seed(0)

    def forward(net: Made, x: Tensor) -> Tensor:
        out: Tensor = net.last(torch.relu(net.first(x)))  # type: ignore[operator]
        return {"last": out, "second": out.movedim(-1, 1), "none": out.squeeze(-1)}[shape]

    return Made(forward, first=nn.Linear(6, 5), last=nn.Linear(5, width))


def taken(model: nn.Module, targets: Tensor, inputs: Tensor | None = None, **plan: Any) -> Captured:
    given = torch.randn(len(targets), *targets.shape[1:2], 6) if inputs is None else inputs
    return seen(model, given, targets, Plan(**plan)).captured["first"]


N, T = 60, 5
INTEGERS = torch.arange(N) % 3
ZERO_ONE = torch.arange(N) % 2
TOKENS = torch.arange(N * T).reshape(N, T) % 3


@pytest.mark.parametrize(
    ("model", "inputs", "targets", "task", "expected", "positions"),
    [
        (head(3), (N, 6), INTEGERS, None, "classification", N),
        (head(3), (N, 6), INTEGERS[:, None], None, "classification", N),
        (head(3), (N, T, 6), TOKENS, None, "classification", N * T),
        (head(3, "second"), (N, T, 6), TOKENS, None, "classification", N * T),
        (head(T, "second"), (N, T, 6), TOKENS, None, "classification", N * T),
        (head(1), (N, 6), ZERO_ONE, None, "binary", N),
        (head(1, "none"), (N, 6), ZERO_ONE, None, "binary", N),
        (head(1), (N, 6), ZERO_ONE[:, None].float(), "binary", "binary", N),
        (head(1, "none"), (N, T, 6), TOKENS % 2, None, "binary", N * T),
        (head(1), (N, 6), ZERO_ONE.float(), "regression", "regression", N),
        (head(1), (N, 6), INTEGERS, "regression", "regression", N),
        (head(1, "none"), (N, 6), INTEGERS.float(), None, "regression", N),
        (head(1), (N, 6), torch.rand(N), None, "regression", N),
        (head(3), (N, 6), torch.rand(N, 3), None, "regression", N),
        (head(3), (N, 6), (torch.rand(N, 3) > 0.5).long(), None, "multilabel", N),
        (head(3), (N, 6), (torch.rand(N, 3) > 0.5).float(), "multilabel", "multilabel", N),
        (head(3), (N, 6), torch.eye(3)[INTEGERS], "classification", "classification", N),
        (head(2, "second"), (N, T, 6), torch.rand(N, 2, T), None, "regression", N * T),
    ],
)
def test_every_head_is_read(
    model: nn.Module, inputs: tuple[int, ...], targets: Tensor, task: Task | None, expected: Task, positions: int
) -> None:
    """Each position is a sample; the snapshot scores as the model does."""
    given = torch.randn(inputs, generator=torch.Generator().manual_seed(0))
    found = taken(model, targets, given, task=task)
    assert found.snapshot.task == expected
    assert found.whole.samples == positions
    with torch.no_grad():
        made = model(given).double()
    total = outputs(found.whole, found.whole.weight, found.whole.bias).sum()
    assert total == pytest.approx(float(made.sum()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("width", "targets", "task", "cure"),
    [
        (1, ZERO_ONE.float(), None, 'task="binary" .* or task="regression"'),
        (3, torch.eye(3)[INTEGERS], None, "one-hot"),
        (3, torch.eye(3)[INTEGERS].long(), None, 'task="classification"'),
        (3, torch.full((N, 3), 1 / 3), None, "probabilities"),
        (3, torch.full((N, 3), 1 / 3), "classification", "probabilities"),
        (3, (torch.rand(N, 3) > 0.4).float(), None, 'task="multilabel"'),
        (1, INTEGERS, None, 'task="regression"'),
        (3, INTEGERS + 1, None, "are 1 to 3, expected 0 to 2"),
        (3, INTEGERS - 1, None, "ignore_index"),
        (3, torch.rand(N), None, "does not fit floating-point targets"),
        (3, INTEGERS, "binary", "one logit"),
        (3, torch.rand(N, 2), "regression", "same shape"),
        (1, torch.rand(N), "binary", "whole numbers"),
        (3, torch.full((N, 3), float("nan")), "regression", "NaN"),
    ],
)
def test_what_may_mean_two_things_is_refused_with_the_cure(
    width: int, targets: Tensor, task: Task | None, cure: str
) -> None:
    """The message names `task=`, or what else would help."""
    with pytest.raises(TrainerError, match=cure):
        seen(head(width), torch.randn(N, 6), targets, Plan(task=task))


def test_ignored_positions_do_not_count() -> None:
    """Padding and unlabelled tokens are left out, whatever the index is."""
    for index in (-100, 2):
        targets = torch.where(torch.rand(N, T) < 0.4, index, TOKENS % 2)
        found = taken(head(3), targets, ignore_index=index)
        assert found.whole.samples == int((targets != index).sum())
        assert set(np.unique(found.whole.targets)) == {0, 1}


def shifting(net: Any, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Scores, and the loss of each position and the next one's label, as causal models of Transformers make it."""
    logits = net.inner(x)
    if labels is None:
        return {"logits": logits}
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return {"loss": loss, "logits": logits}


class Talker(Made):
    """Says in its `forward` that it takes labels."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        return super().forward(x, labels)


def test_causal_language_models_predict_the_next_token() -> None:
    """The last position has no target; the others have the next one's label."""
    model = Talker(shifting, inner=head(3))
    found = seen(model, torch.randn(N, T, 6), TOKENS).captured["inner.last"]
    assert found.whole.samples == N * (T - 1)
    row, place = found.origin.row, found.origin.place
    order = kept(torch.randn(N, T, 6), TOKENS)
    labels = torch.cat([batch.targets for _, batch in order.batches(N, torch.device("cpu"))])
    assert np.array_equal(found.whole.targets, labels[row, place + 1].numpy())


def test_class_and_sample_weights_multiply() -> None:
    """Each position carries its sample's weight times its class's."""
    plan, weights = Plan(class_weight=(1.0, 2.0, 3.0)), torch.rand(N) + 0.5
    found = seen(head(3), torch.randn(N, 6), INTEGERS, plan, weights).captured["first"].whole
    assert found.sample_weight is not None
    by_class = [float(found.sample_weight[found.targets == c].sum()) for c in range(3)]
    expected = [float((c + 1) * weights[c == INTEGERS].sum()) for c in range(3)]
    assert by_class == pytest.approx(expected, rel=1e-5)
    spread = seen(head(3), torch.randn(N, T, 6), TOKENS, None, torch.ones(N)).captured["first"].whole
    assert spread.sample_weight is not None
    assert spread.sample_weight.shape == (N * T,)
    with pytest.raises(TrainerError, match="class_weight has 2 entries"):
        seen(head(3), torch.randn(N, 6), INTEGERS, Plan(class_weight=(1.0, 2.0)))
    with pytest.raises(TrainerError, match="0 or more"):
        seen(head(3), torch.randn(N, 6), INTEGERS, None, -torch.ones(N))


def test_output_objects_and_tuples_are_read() -> None:
    """`.logits` as in Transformers, a mapping, or the first tensor of several."""
    makers: list[Any] = [
        lambda out: SimpleNamespace(loss=None, logits=out),
        lambda out: {"logits": out, "hidden": out * 2},
        lambda out: (out, out * 2),
    ]
    inner = head(3)
    for maker in makers:
        model = Made(lambda net, x, maker=maker: maker(net.inner(x)), inner=inner)
        assert set(seen(model, torch.randn(N, 6), INTEGERS).captured) == {"inner.first", "inner.last"}
    with pytest.raises(TrainerError, match=r"puts out a str"):
        seen(Made(lambda net, x: "text", inner=inner), torch.randn(N, 6), INTEGERS)


def test_the_objective_of_a_single_logit_counts_errors() -> None:
    """A binary snapshot says how many signs are wrong."""
    inputs = torch.randn(N, 6)
    model = head(1)
    found = taken(model, ZERO_ONE, inputs)
    with torch.no_grad():
        wrong = int(((model(inputs)[:, 0] > 0).long() != ZERO_ONE).sum())
    assert Objective("zero_one").value(found.whole, found.whole.weight, found.whole.bias) == wrong


def squeezed(width: int) -> nn.Module:
    """A network whose output loses every dimension of size 1, as written for a batch of many."""
    torch.manual_seed(0)
    return Made(
        lambda net, x: net.last(torch.relu(net.first(x))).squeeze(), first=nn.Linear(6, 5), last=nn.Linear(5, width)
    )


@pytest.mark.parametrize(
    ("width", "targets", "task"),
    [
        (1, torch.rand(N), "regression"),
        (1, ZERO_ONE, "binary"),
        (4, INTEGERS, "classification"),
        (4, torch.rand(N, 4), "regression"),
        (4, (torch.rand(N, 4) > 0.5).long(), "multilabel"),
    ],
)
@pytest.mark.parametrize("sizes", [(1,), (1, N - 1), (N - 1, 1), (1,) * 20])
def test_a_batch_of_one_may_lose_its_dimensions(
    width: int, targets: Tensor, task: Task, sizes: tuple[int, ...]
) -> None:
    """Whether it comes first or last: a model that ends in `squeeze()` is read as with any other batch."""
    count, net = sum(sizes), squeezed(width)
    inputs, reservoir = torch.randn(N, 6, generator=torch.manual_seed(0)), Reservoir()
    for batch in zip(inputs[:count].split(sizes), targets[:count].split(sizes), strict=True):
        reservoir.observe(batch)
    rows = reservoir.rows(count, np.random.default_rng(0))
    options: dict[str, Any] = {"radius_of": lambda _, mean: 0.25 * mean, "budget_s": 30.0}
    seen_all = look(net, rows, Plan(task=task), layers=["last"], generator=np.random.default_rng(0), **options)
    found = seen_all.captured["last"].whole
    assert (found.task, found.samples) == (task, count)
    with torch.no_grad():
        made = torch.stack([net(row).reshape(width) for row in inputs[:count]]).double()
    assert outputs(found, found.weight, found.bias).sum() == pytest.approx(float(made.sum()), rel=1e-4, abs=1e-4)


def test_a_model_that_puts_out_its_loss_is_named() -> None:
    """One number for many samples are no scores."""
    model = Made(lambda net, x: net.last(x).mean(), last=nn.Linear(6, 3))
    with pytest.raises(TrainerError, match="one number for a batch of 16; let it put out scores"):
        seen(model, torch.randn(N, 6), INTEGERS)
