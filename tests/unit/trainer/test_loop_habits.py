"""What a loop keeps of its weights by itself (masks, signs, bounds, norms) no answer breaks, at the end neither."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.contracts import Constraint, JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Solve, Tensors, least_squares
from trainer import MaxNonzero, Monotone, NonNegative, Summary, Tunneller
from trainer.adoption.habits import Look, Weights, habit_of

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(200, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 4, generator=GENERATOR)).argmax(dim=1)
MASK = (torch.rand(4, 8, generator=GENERATOR) < 0.4).float()
COLUMNS = torch.ones(4, 8)
COLUMNS[:, 2:5] = 0.0
STALLED = 1.0


class Loop:
    """A loop of full batches, whose head is changed after each step."""

    def __init__(
        self,
        project: Callable[[Tensor], object],
        *,
        made: Callable[[Any], torch.optim.Optimizer] = lambda params: torch.optim.Adam(params, 1e-2),
        solve: Solve = least_squares,
        prepare: Callable[[nn.Sequential], object] = lambda _: None,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        prepare(self.model)
        self.head = self.model[2].weight
        self.project, self.optimizer, self.pool = project, made(self.model.parameters()), FakePool(solve)
        self.clears = False
        self.dtype = self.head.dtype
        settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "sync": True, "mode": "min"}
        settings |= {"validate": self.validate, "client": self.pool.client(), "radius": 0.3} | options
        self.tunneller = Tunneller(self.model, optimizer=self.optimizer, **settings)

    def validate(self) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(self.model(X.to(self.dtype)).float(), Y).item()

    def train(self) -> None:
        self.tunneller.observe(X.to(self.dtype), Y)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(X.to(self.dtype)).float(), Y).backward()
        self.optimizer.step()
        if self.clears:
            self.optimizer.zero_grad()
        with torch.no_grad():
            self.project(self.head)

    def run(self, checks: int = 5) -> Summary:
        with torch.no_grad():
            self.project(self.head)
        for _ in range(checks):
            self.train()
            self.tunneller.step(STALLED)
        return self.tunneller.close(polish=True)

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.tunneller.history)


def scale(weight: Tensor) -> None:
    weight.copy_(torch.renorm(weight, 2, 0, 0.4))


def scale_columns(weight: Tensor) -> None:
    weight.copy_(torch.renorm(weight, 2, 1, 0.2))


KEPT: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a mask": (lambda weight: weight.mul_(MASK), "weights at 0, as a mask"),
    "whole columns": (lambda weight: weight.mul_(COLUMNS), "weights at 0, as a mask"),
    "none below 0": (lambda weight: weight.clamp_(min=0.0), "NonNegative()"),
    "none above 0": (lambda weight: weight.clamp_(max=0.0), "Monotone(-1)"),
    "some columns": (lambda weight: weight[:, :4].clamp_(min=0.0), "NonNegative(indices=COLUMNS)"),
    "a clip": (lambda weight: weight.clamp_(-0.1, 0.1), "clips its weights at 0.1"),
    "a clip of one side": (lambda weight: weight.clamp_(min=-0.1), "clips its weights at -0.1"),
    "norms of rows": (scale, "scales its rows to norms of at most 0.4"),
    "norms of columns": (scale_columns, "scales its columns to norms of at most 0.2"),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda params: torch.optim.Adam(params, 1e-2),
    "SGD": lambda params: torch.optim.SGD(params, 0.1),
    "RMSprop": lambda params: torch.optim.RMSprop(params, 1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", KEPT)
def test_what_a_loop_keeps_no_answer_breaks(name: str, optimizer: str, caplog: pytest.LogCaptureFixture) -> None:
    """The layer is refused by name before a job is sent, with the constraint that says it; the last tunnel, too."""
    project, told = KEPT[name]
    loop = Loop(project, made=OPTIMIZERS[optimizer])
    summary = loop.run()
    before = loop.head.detach().clone()
    with torch.no_grad():
        project(loop.head)
    torch.testing.assert_close(loop.head.detach(), before, rtol=1e-6, atol=1e-6)
    assert summary.jobs == 0
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "layer '2'" in warnings[0]
    assert told in warnings[0]
    assert told in summary.advice


def test_a_hook_of_the_optimizer_keeps_as_a_loop_does() -> None:
    """Signs that a hook after each step keeps are there at the end."""
    loop = Loop(lambda _: None)
    loop.optimizer.register_step_post_hook(lambda *_: loop.head.data.clamp_(min=0.0))
    loop.run()
    assert not (loop.head < 0).any()


@pytest.mark.parametrize("layer", ["auto", None])
def test_gradients_that_are_masked_keep_zeros(layer: str | None) -> None:
    """Nothing pushes weights whose gradient is masked, but their rows and columns move while they do not."""

    def mask(model: nn.Sequential) -> None:
        model[2].weight.data.mul_(MASK)
        model[2].weight.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", one.grad * MASK))

    loop = Loop(lambda _: None, prepare=mask, made=OPTIMIZERS["SGD"], layer=layer)
    loop.run()
    assert not loop.head[MASK == 0].any()


@pytest.mark.parametrize("name", ["a mask", "none below 0", "a clip"])
def test_weights_are_looked_at_twice_where_no_gradient_is_left(name: str) -> None:
    """A loop that clears gradients after the step leaves only what two looks have in common."""
    project, _ = KEPT[name]
    loop = Loop(project, made=OPTIMIZERS["SGD"])
    loop.clears = True
    with torch.no_grad():
        project(loop.head)
    loop.run()
    before = loop.head.detach().clone()
    with torch.no_grad():
        project(loop.head)
    assert torch.equal(loop.head, before)


def rows_of(mask: Tensor) -> list[Constraint]:
    return [
        MaxNonzero(0, classes=row, indices=[column for column in range(8) if not mask[row, column]])
        for row in range(4)
        if not mask[row].all()
    ]


def kept(project: Callable[[Tensor], object]) -> Solve:
    """The least squares, within what is asked for."""

    def solve(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        answer = least_squares(snapshot, spec)
        project(torch.from_numpy(answer["weight"]))
        return answer

    return solve


@pytest.mark.parametrize(
    ("name", "constraints"),
    [
        ("a mask", rows_of(MASK)),
        ("none below 0", [NonNegative()]),
        ("none above 0", [Monotone(-1)]),
        ("some columns", [NonNegative(indices=range(4))]),
    ],
)
def test_what_a_constraint_says_is_no_obstacle(name: str, constraints: Sequence[Constraint]) -> None:
    """A layer whose habit is asked of every answer is tunnelled, and keeps it."""
    project, _ = KEPT[name]
    loop = Loop(project, solve=kept(project), constraints=constraints)
    assert loop.run().adopted > 0
    before = loop.head.detach().clone()
    with torch.no_grad():
        project(loop.head)
    assert torch.equal(loop.head, before)


def dead_inputs(model: nn.Sequential) -> None:
    """A head that begins at 0 behind units of which some never fire."""
    nn.init.zeros_(model[2].weight)
    model[0].bias.data[:3] = -100.0


@pytest.mark.parametrize(
    "prepare",
    [
        lambda _: None,
        dead_inputs,
        lambda model: nn.init.ones_(model[2].weight),
        lambda model: nn.init.eye_(model[2].weight),
        lambda model: nn.init.orthogonal_(model[2].weight),
        lambda model: nn.init.uniform_(model[2].weight),
        lambda model: model.bfloat16(),
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_habit_is_seen_where_there_is_none(
    prepare: Callable[[nn.Sequential], object], optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Beginnings with equal weights, zeros, one sign or one norm, dead inputs and coarse types are no habits."""
    loop = Loop(lambda _: None, prepare=prepare, made=OPTIMIZERS[optimizer])
    assert loop.run().adopted > 0
    assert loop.count("undone") == 0
    assert "is not tunnelled" not in caplog.text


def test_what_shows_only_after_an_adoption_undoes_it(caplog: pytest.LogCaptureFixture) -> None:
    """A loop that begins to keep signs after an adoption changes it; that is undone, and the last on this layer."""
    loop = Loop(lambda _: None)
    for _ in range(5):
        loop.train()
        if loop.tunneller.step(STALLED):
            loop.project = lambda weight: weight.clamp_(min=0.0)
    summary = loop.tunneller.close(polish=True)
    assert loop.count("adopted") == loop.count("undone") == 1
    assert (summary.adopted, summary.gained) == (0, 0.0)
    assert caplog.text.count("is not tunnelled") == 1
    assert not (loop.head < 0).any()


def test_a_layer_that_is_let_go_is_tunnelled_again() -> None:
    """Where weights are no longer what the loop kept them at, they may move."""
    loop = Loop(lambda weight: weight.mul_(MASK))
    for number in range(8):
        loop.train()
        loop.tunneller.step(STALLED)
        if number == 3:
            assert loop.pool.snapshots == []
            loop.project = lambda _: None
    assert loop.tunneller.close().adopted > 0


def test_other_layers_are_tunnelled_in_its_place() -> None:
    """With `layer="auto"` the policy does without the layer that the loop keeps, and without moving it along."""
    loop = Loop(lambda weight: weight.clamp_(-0.1, 0.1), layer="auto")
    loop.run(8)
    assert loop.pool.snapshots
    assert loop.head.abs().max() <= 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_an_answer_moves_behind_a_dead_input_says_nothing_of_the_loop(
    optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of weights that no gradient reaches an answer may move some: that the others stay at 0 is no mask."""

    def solve(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        answer = least_squares(snapshot, spec)
        answer["weight"][:2, :3] = 1e-3
        answer["weight"][2:, :3] = 0.0
        return answer

    loop = Loop(lambda _: None, prepare=dead_inputs, made=OPTIMIZERS[optimizer], solve=solve)
    assert loop.run().adopted > 0
    assert loop.count("undone") == 0
    assert "is not tunnelled" not in caplog.text


def looked_at(now: Weights, earlier: Weights, eldest: Weights | None = None) -> Look:
    """A look at weights of which nothing else is known."""
    nothing = np.zeros(now.shape, dtype=bool)
    return Look(now, earlier, None, nothing, nothing, nothing, nothing, eldest=eldest)


@pytest.mark.parametrize("rate", [0.01, 0.001])
@pytest.mark.parametrize("shape", [(4, 8), (10, 64), (64, 10), (2, 784)])
def test_a_norm_that_is_the_same_by_chance_is_no_habit(shape: tuple[int, int], rate: float) -> None:
    """A step of Adam's from new moments moves every weight as far, and leaves one norm in a hundred where it was."""
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(2000):
        eldest = draw.normal(size=shape, scale=0.8).astype(np.float32)
        earlier = (eldest + rate * draw.choice([-1, 1], shape)).astype(np.float32)
        now = (earlier + rate * draw.choice([-1, 1], shape)).astype(np.float32)
        found += habit_of(looked_at(now, earlier, eldest)) is not None
        found += habit_of(looked_at(earlier, eldest)) is not None
    assert found <= 0.001 * 4000


def projected(weights: Weights, norm: float) -> Weights:
    """The first row scaled to a norm that no other reaches."""
    scaled = weights.astype(np.float64)
    scaled[0] *= norm / np.linalg.norm(scaled[0])
    return scaled.astype(np.float32)


@pytest.mark.parametrize("width", [8, 784, 10_000])
def test_one_row_that_is_kept_at_its_norm_is_a_habit(width: int) -> None:
    """However wide the layer and however small the steps: at the second look running at the latest."""
    draw = np.random.default_rng(1)
    looks = [draw.normal(size=(4, width), scale=0.1)]
    looks += [looks[0] + draw.normal(size=(4, width), scale=0.005 * number) for number in (1, 2)]
    eldest, earlier, now = (projected(weights.astype(np.float32), 1.5 * 0.1 * width**0.5) for weights in looks)
    habit = habit_of(looked_at(now, earlier, eldest))
    assert habit is not None
    assert "scales its rows" in habit.why
    free = projected(now, 1.51 * 0.1 * width**0.5)
    assert habit_of(looked_at(free, now, earlier)) is None
