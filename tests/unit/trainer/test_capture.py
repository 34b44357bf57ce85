"""Captured layers of live models: arrays that score as the model does, the way back, and no trace left."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shared.objectives import Objective, outputs
from shared.snapshot import Snapshot, TailLayer
from tests.unit.trainer.models import Made, classes, kept, seen, state, used
from trainer.errors import CaptureError, DataError
from trainer.model.blocks import find_layer
from trainer.samples.reservoir import Reservoir
from trainer.snapshots.capture import Captured, Parcel, Plan, look, try_out
from trainer.snapshots.projection import clip_to_box, project

F = nn.functional
RAMP = Objective("ramp")
Arrays = Mapping[str, NDArray[np.float32]]


def mlp(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 4))


def residual_net(net: Any, x: Tensor) -> Tensor:
    hidden = F.relu(net.a(x))
    out: Tensor = net.d(hidden + net.c(F.silu(net.b(hidden))))
    return out


def architectures() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Models of different kinds with inputs and targets."""
    torch.manual_seed(0)
    flat, targets = classes()
    tokens = torch.randn(60, 5, 6), torch.randint(0, 4, (60, 5))
    images = torch.randn(40, 3, 5, 5), torch.randint(0, 4, (40, 5, 5))
    norm, end = nn.BatchNorm1d(8), [nn.Linear(8, 4)]
    four = {"a": nn.Linear(6, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 8), "d": nn.Linear(8, 4)}
    conv = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.ReLU()]
    return {
        "mlp": (mlp(), flat, targets),
        "in place": (nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.1, inplace=True), nn.Linear(8, 4)), flat, targets),
        "functional": (Made(residual_net, **four), flat, targets),
        "normalised": (
            used(nn.Sequential(nn.Linear(6, 8, bias=False), norm, nn.ReLU(), nn.Linear(8, 4))),
            flat,
            targets,
        ),
        "normalised behind": (used(nn.Sequential(nn.Linear(6, 8), nn.GELU(), norm, *end)), flat, targets),
        "tokens": (
            nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 4)),
            *tokens,
        ),
        "pixels": (used(nn.Sequential(*conv, nn.Conv2d(5, 4, 1))), *images),
        "bf16": (mlp(32).bfloat16(), flat.bfloat16(), targets),
        "probabilities": (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Softmax(1)), flat, targets),
        "compiled": (torch.compile(mlp(), backend="eager"), flat, targets),  # type: ignore[dict-item]
    }


def somewhere(parcel: Parcel, generator: np.random.Generator) -> tuple[SimpleNamespace, tuple[TailLayer, ...]]:
    """An answer at random inside the box, its last layer moved where it may; and the tail that goes with it."""
    sent, tail = parcel.snapshot, parcel.snapshot.tail
    wide = parcel.radius if sent.radius is None else sent.radius
    weight = sent.weight + generator.uniform(-1, 1, sent.weight.shape) * wide
    bias = None
    if sent.bias is not None:
        bias = sent.bias + generator.uniform(-1, 1, sent.bias.shape) * (
            parcel.bias_radius if sent.bias_radius is None else sent.bias_radius
        )
    moved: dict[str, NDArray[np.float32]] = {}
    if tail and parcel.captured.movable[-1]:
        last = (tail[-1].weight + generator.uniform(-0.1, 0.1, tail[-1].weight.shape)).astype(np.float32)
        moved, tail = {f"tail.{len(tail) - 1}.weight": last}, (*tail[:-1], replace(tail[-1], weight=last))
    single = None if bias is None else bias.astype(np.float32)
    return SimpleNamespace(weight=weight.astype(np.float32), bias=single, tail=moved), tail


@pytest.mark.parametrize("kind", architectures())
def test_the_live_model_does_what_a_job_promises(kind: str) -> None:
    """For every layer and random answers inside the box: same objective, no refusal, and the model as it was."""
    model, inputs, targets = architectures()[kind]
    before, generator = state(model), np.random.default_rng(0)
    taken = seen(model, inputs, targets).captured
    assert taken
    for captured in taken.values():
        parcel = captured.pack(0.25 * captured.weight_size, tail_radius=0.1 if captured.block.tail else None)
        answers = [somewhere(parcel, generator) for _ in range(3)]
        promised = [RAMP.value(parcel.snapshot, it.weight, it.bias, tail) for it, tail in answers]
        value, trials = try_out(model, captured, RAMP, [parcel.unpack(it) for it, _ in answers], budget_s=30)  # type: ignore[arg-type]
        exact = 1e-2 if kind == "bf16" else 1e-4
        start = captured.snapshot
        assert value == pytest.approx(RAMP.value(start, start.weight, start.bias), rel=exact)
        assert [trial.why for trial in trials] == [None] * 3
        assert [trial.value for trial in trials] == pytest.approx(promised, rel=exact)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Counting(nn.Module):
    """A model that writes into its buffers in evaluation mode, and cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = used(
            nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
        )
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(4))

    def __deepcopy__(self, memo: object) -> "Counting":
        raise AssertionError("a copy of the model was made")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.calls += 1
        self.last = out.detach().mean(0)
        return out


def train(*, looking: bool) -> Mapping[str, Tensor]:
    """Some steps with dropout and momentum, with looks and trials in between or without."""
    torch.manual_seed(3)
    model, (inputs, targets) = Counting(), classes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(6):
        chosen = torch.randperm(len(inputs))[:64]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[chosen]), targets[chosen])
        if looking:  # even between forward and backward pass
            taken = seen(model, inputs, targets).captured["inner.4"]
            answer = {"inner.4.weight": taken.weight + 1, "inner.4.bias": np.full(4, np.nan, np.float32)}
            try_out(model, taken, RAMP, [answer, {"inner.4.weight": taken.weight + step}], budget_s=1)
        loss.backward()
        optimizer.step()
    return state(model) | {
        name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }


def test_training_is_bit_for_bit_what_it_would_be_without() -> None:
    """Parameters, buffers, gradients, dropout and graphs in flight: nothing shows that there were looks and trials."""
    plain, looked_at = train(looking=False), train(looking=True)
    assert plain.keys() == looked_at.keys()
    assert all(torch.equal(plain[name], looked_at[name]) for name in plain)


def test_looking_leaves_no_hook_and_no_mode_behind() -> None:
    """Modes may differ from module to module; frozen parameters stay frozen; a failing model is put back, too."""
    model = mlp().train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    for inputs in (classes()[0], torch.randn(300, 5)):
        modes = [module.training for module in model.modules()]
        before, randomness = state(model), torch.get_rng_state()
        try:
            seen(model, inputs, classes()[1])
        except CaptureError as error:
            assert "observe what the model itself is given" in str(error)  # noqa: PT017
        assert modes == [module.training for module in model.modules()]
        assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True]
        assert torch.equal(randomness, torch.get_rng_state())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_candidate_that_the_model_does_not_follow_is_refused() -> None:
    """A model that has become another since the stall, wrong shapes, and NaN: each with its reason."""
    model, (inputs, targets) = mlp(), classes()
    taken = seen(model, inputs, targets).captured["0"]
    better = {"0.weight": taken.weight * 1.1}
    odd: list[Arrays] = [
        {"0.weight": taken.weight * np.nan},
        {"0.weight": taken.weight[:2]},
        {"9.weight": taken.weight},
    ]
    _, trials = try_out(model, taken, RAMP, [better, *odd], budget_s=10)
    assert trials[0].why is None
    assert [trial.why is not None for trial in trials[1:]] == [True] * 3
    model[1] = nn.ReLU6()  # nothing shows until a candidate reaches beyond 6
    _, [same, beyond] = try_out(model, taken, RAMP, [better, {"0.weight": taken.weight * 100}], budget_s=10)
    assert same.why is None
    assert "does not do what the job says" in str(beyond.why)
    model[1] = nn.Tanh()
    _, [changed] = try_out(model, taken, RAMP, [better], budget_s=10)
    assert "no longer what it was" in str(changed.why)


def test_trials_keep_to_their_budget() -> None:
    """With no time at all, a few rows are run; the objective is that of those."""
    model, (inputs, targets) = mlp(), classes()
    taken = seen(model, inputs, targets).captured["3"]
    whole, _ = try_out(model, taken, RAMP, [], budget_s=30)
    part, _ = try_out(model, taken, RAMP, [{"3.bias": np.zeros(4, np.float32)}], budget_s=0)
    assert 0 < part < whole / 2


def test_a_look_keeps_to_its_budget() -> None:
    """Without time one layer is looked at on 64 rows, and the others are named; what it took is told."""
    model, (inputs, targets) = mlp(), classes()
    found = seen(model, inputs, targets, budget_s=1e-9)
    assert found.samples == 64
    assert list(found.captured) == ["3"]
    assert "the budget of 1e-09 s was used up" in found.refused["0"]
    assert found.seconds > 0


def test_batches_are_no_larger_than_the_loops_own() -> None:
    """What fits into memory in training fits in a look, too; only what is small in any case comes 64 rows at once."""
    sizes = Mock()  # a list would be as before after each look
    wide = nn.Linear(6, 30_000)  # puts out 120 kB for a row
    model = Made(lambda net, x: (sizes(len(x)), net.wide(x), net.inner(x))[2], inner=mlp(), wide=wide)
    reservoir, (inputs, targets) = Reservoir(), classes()
    for start in range(0, 300, 10):
        reservoir.observe((inputs[start : start + 10], targets[start : start + 10]))
    generator = np.random.default_rng(0)
    options: dict[str, Any] = {"radius_of": lambda _, mean: mean, "generator": generator, "budget_s": 30}
    found = look(model, reservoir.rows(300, generator), Plan(), layers=["inner.3"], **options)
    try_out(model, found.captured["inner.3"], RAMP, [], budget_s=30)
    assert max(call.args[0] for call in sizes.call_args_list) == 10


def test_weights_of_the_whole_are_counted() -> None:
    """The block's and those of all layers behind it."""
    assert seen(mlp(), *classes()).captured["0"].weights == 6 * 8 + 8 + 8 * 4 + 4


def test_known_chains_only_have_to_explain_the_model_as_it_is() -> None:
    """A later look takes them over; one that no longer holds is looked at anew."""
    model, (inputs, targets) = mlp(), classes()
    known = {name: taken.block for name, taken in seen(model, inputs, targets).captured.items()}
    assert seen(model, inputs, targets, known=known).captured["0"].block is known["0"]
    model[1] = nn.Tanh()
    again = seen(model, inputs, targets, known=known).captured["0"].block
    assert str(again.layer.activation) == "tanh"


def residual(branch: Callable[[Made, Tensor], Tensor], **parts: nn.Module) -> Made:
    """Layer `h` on a path beside what goes straight through: it takes in what `branch` makes of the stem."""

    def forward(net: Made, x: Tensor) -> Tensor:
        stem = torch.relu(net.i(x))
        return net.o(stem + branch(net, stem))

    torch.manual_seed(0)
    return Made(forward, i=nn.Linear(6, 8), h=nn.Linear(8, 8), o=nn.Linear(8, 4), **parts)


def test_a_chain_whose_residual_path_absorbs_what_it_gets_wrong_is_looked_at_anew() -> None:
    """Batch normalisation is the identity before training: a chain without it explains any output by its offset."""
    model = residual(lambda net, stem: torch.relu(net.b(net.h(stem))), b=nn.BatchNorm1d(8))
    known = {name: taken.block for name, taken in seen(model, *classes()).captured.items()}
    assert (known["h"].layer.before, known["h"].tail[-1].offset) == (None, True)
    assert seen(model, *classes(), known=known).captured["h"].block is known["h"]
    used(model)
    again = seen(model, *classes(), known=known).captured["h"].block
    assert again == seen(model, *classes()).captured["h"].block
    assert again.layer.before == "b"


def test_a_gate_that_opens_makes_a_chain_through_a_residual_path_be_looked_at_anew() -> None:
    """A branch that put out 0 before training was left out of the chain."""
    gate = nn.Linear(8, 8, bias=False)
    nn.init.zeros_(gate.weight)
    model = residual(lambda net, stem: (made := torch.relu(net.h(stem))) + net.g(torch.sin(made)), g=gate)
    known = {name: taken.block for name, taken in seen(model, *classes()).captured.items()}
    assert known["h"].tail[-1].offset
    nn.init.normal_(gate.weight)
    again = seen(model, *classes(), known=known)
    assert "h" not in again.captured
    assert "layer 'h'" in again.refused["h"]


def test_an_empty_reservoir_is_named() -> None:
    """Before the first batch there is nothing to look at."""
    options: dict[str, Any] = {"radius_of": lambda _, mean: mean, "generator": np.random.default_rng(0)}
    with pytest.raises(DataError, match="no batch has been observed"):
        look(mlp(), kept(*classes(0)), Plan(), layers=["0"], budget_s=1, **options)


def test_the_last_linear_layer_is_the_default() -> None:
    """Without a choice, the paper's case: the final layer; a name or a module chooses another, others are refused."""
    model = mlp()
    assert find_layer(model) == "3"
    assert find_layer(model, "0") == find_layer(model, model[0]) == "0"
    with pytest.raises(CaptureError, match=r"no nn\.Linear"):
        find_layer(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(CaptureError, match="it has: 0, 3"):
        find_layer(model, "9")


def test_only_layers_that_may_move_do() -> None:
    """A layer behind the block that the optimizer does not own is seen as fixed; an answer may not move it."""
    taken = seen(mlp(), *classes(), movable=["0"]).captured["0"]
    assert taken.movable == (False,)
    moved = {"tail.0.weight": taken.snapshot.tail[0].weight + 1}
    parcel = taken.pack(0.1)
    with pytest.raises(CaptureError, match="cannot move"):
        unpacked(parcel, taken.weight, taken.bias, moved)
    with pytest.raises(CaptureError, match="cannot move as a whole"):
        taken.pack_whole([1.0, 1.0])


def unpacked(parcel: Parcel, weight: Any, bias: Any, tail: Any = None) -> dict[str, NDArray[np.float32]]:
    return parcel.unpack(SimpleNamespace(weight=weight, bias=bias, tail=tail or {}))  # type: ignore[arg-type]


def test_an_answer_lands_on_the_parameters_inside_the_box() -> None:
    """Weights outside the radius are clipped, a moved tail as well; names are the model's own."""
    taken = seen(mlp(), *classes()).captured["0"]
    tail = {"tail.0.weight": taken.snapshot.tail[0].weight + 5}
    moved = unpacked(taken.pack(0.1, tail_radius=0.2), taken.weight + 5, taken.bias, tail)
    assert set(moved) == {"0.weight", "0.bias", "3.weight"}
    assert np.abs(moved["0.weight"].astype(np.float64) - taken.weight).max() <= 0.1
    assert np.abs(moved["3.weight"].astype(np.float64) - taken.snapshot.tail[0].weight).max() <= 0.2


@pytest.mark.parametrize("name", ["weight", "bias", "tail"])
def test_what_is_no_answer_is_refused(name: str) -> None:
    """Wrong shapes, tensors that nobody asked for, and NaN are named."""
    taken = seen(mlp(), *classes()).captured["0"]
    right = {"weight": taken.weight, "bias": taken.bias, "tail": {}}
    wrong: list[Any] = [
        np.full(3, 1.0, np.float32),
        np.full_like(taken.weight if name == "weight" else taken.bias, np.nan),
    ]
    if name == "tail":
        wrong = [{"tail.0.weight": wrong[0]}, {"tail.7.weight": taken.weight}, {"tail.0.odd": taken.weight}]
    for value in wrong:
        with pytest.raises(CaptureError, match="the answer's"):
            unpacked(taken.pack(0.1), **(right | {name: value}))


def test_a_normalised_layer_has_its_box_in_its_own_units() -> None:
    """Radii are scaled with the weights; a unit whose scale is 0 stays; a layer without bias gets none."""
    norm = nn.BatchNorm1d(8)
    model = used(nn.Sequential(nn.Linear(6, 8, bias=False), norm, nn.ReLU(), nn.Linear(8, 4)))
    norm.weight.data[2] = 0.0
    taken = seen(model, *classes()).captured["0"]
    parcel = taken.pack(0.1)
    assert parcel.spec_radius is None
    sent = parcel.snapshot
    assert sent.radius is not None
    assert sent.bias_radius is not None
    assert not sent.bias_radius.any()
    assert np.array_equal(taken.weight, model[0].weight.detach().numpy())
    moved = unpacked(parcel, sent.weight + sent.radius, sent.bias)
    assert set(moved) == {"0.weight"}
    change = np.abs(moved["0.weight"].astype(np.float64) - taken.weight)
    assert change.max() <= 0.1
    assert change[[0, 1, 3]].min() == pytest.approx(0.1, rel=1e-3)
    assert not change[2].any()


def test_a_projected_answer_stays_in_the_box_and_round_trips() -> None:
    """A wide layer travels as a few directions; any answer within their radii keeps every weight in its box."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 4))
    taken = seen(model, *classes(60), Plan(project_above=100, directions=10)).captured["2"]
    parcel = taken.pack(0.05)
    sent = parcel.snapshot
    assert sent.inputs.shape == (60, 10)
    assert parcel.spec_radius is None
    assert sent.radius is not None
    corner = (sent.radius * np.random.default_rng(0).choice([-1.0, 1.0], sent.radius.shape)).astype(np.float32)
    bias = np.full(4, 0.05, np.float32)
    moved = unpacked(parcel, corner, bias)
    assert 0 < np.abs(moved["2.weight"].astype(np.float64) - taken.weight).max() <= 0.05
    value, [trial] = try_out(model, taken, RAMP, [moved], budget_s=10)
    assert trial.why is None
    assert trial.value == pytest.approx(RAMP.value(sent, corner, bias), rel=1e-4)
    assert value != trial.value


def test_samples_can_be_chosen_anew() -> None:
    """Fewer samples for a dear job, among all that were seen; their weights still speak for all."""
    taken = seen(mlp(), *classes(2000), Plan(samples=400)).captured["3"]
    assert taken.whole.samples == pytest.approx(1600, abs=5)
    few = taken.with_samples(100, np.random.default_rng(1))
    assert (taken.snapshot.samples, few.snapshot.samples) == (400, 100)
    assert few.snapshot.sample_weight is not None
    assert float(few.snapshot.sample_weight.mean()) == pytest.approx(1.0, rel=1e-5)
    assert try_out(mlp(), few, RAMP, [], budget_s=10)[0] > 0


class NoTorch(TorchDispatchMode):
    """No operator of torch may run."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called")


def test_what_the_background_thread_does_runs_no_torch_operator() -> None:
    """Choosing samples, packing, encoding and unpacking are array work: forked data loaders need not wait for it."""
    wide = Plan(project_above=4, directions=3)
    for name, taken in [*seen(mlp(), *classes()).captured.items(), *seen(mlp(), *classes(), wide).captured.items()]:
        with NoTorch():
            few = taken.with_samples(50, np.random.default_rng(0))
            parcel = few.pack(0.1, {"layer": name})
            assert parcel.snapshot.to_bytes()
            assert few.active.size == len(taken.weight)
            assert unpacked(parcel, parcel.snapshot.weight, parcel.snapshot.bias)


def dead(taken: Captured) -> list[bool]:
    return [bool(share == 0) for share in taken.active]


def test_dead_units_are_told_with_what_would_revive_them() -> None:
    """A unit that is never active is dead; its bias has to rise by as much as it is below zero."""
    model = mlp()
    model[0].weight.data[1], model[0].bias.data[1] = 0.0, -3.0
    taken = seen(model, *classes()).captured["0"]
    assert dead(taken)[1]
    assert sum(dead(taken)) == 1
    assert taken.lift == pytest.approx(3.0, rel=1e-5)
    assert seen(mlp(), *classes()).captured["3"].lift == 0.0


def test_every_snapshot_can_travel() -> None:
    """What is captured of each kind of model survives the wire."""
    for model, inputs, targets in architectures().values():
        for captured in seen(model, inputs, targets).captured.values():
            sent = captured.pack(0.1, {"run": "r"}).snapshot
            back = Snapshot.from_bytes(sent.to_bytes())
            np.testing.assert_array_equal(outputs(back, back.weight, back.bias), outputs(sent, sent.weight, sent.bias))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(2, 30), m=st.integers(1, 8), radius=st.floats(1e-4, 10))
def test_directions_are_orthonormal_and_radii_safe(seed: int, d: int, m: int, radius: float) -> None:
    """Whatever the inputs, `sum_l |P_jl| r_l <= radius` for every weight j."""
    inputs = np.random.default_rng(seed).normal(size=(20, d)) * np.random.default_rng(seed + 1).exponential(size=d)
    found = project(inputs, m, radius)
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(found.directions.shape[1]), atol=1e-9)
    assert (np.abs(found.directions) @ found.radii).max() <= radius * (1 + 1e-9)
    assert found.radii.max() > 0


@pytest.mark.parametrize("shape", [(400, 700), (900, 600)])
def test_leading_directions_hold_what_can_be_held(shape: tuple[int, int]) -> None:
    """Of wide inputs they hold all but a thousandth of what as many singular vectors do, whatever the scale."""
    generator = np.random.default_rng(0)
    decaying = generator.normal(size=(shape[0], 300)) * 0.98 ** np.arange(300)
    inputs = decaying @ generator.normal(size=(300, shape[1]))
    best = np.square(np.linalg.svd(inputs, compute_uv=False)[:64]).sum()
    for scale in (1e-20, 1.0, 1e20):
        found = project((scale * inputs).astype(np.float32), 64, 0.1)
        assert np.square(inputs @ found.directions).sum() >= 0.999 * best
        assert 0.1 * (1 - 1e-9) <= (np.abs(found.directions) @ found.radii).max() <= 0.1 * (1 + 1e-9)


def test_jobs_with_other_boxes_share_a_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions are found once for all jobs on the same samples, and each box's radii are its own."""
    found = list[float]()

    def counted(inputs: Any, count: int, radius: float) -> Any:
        found.append(radius)
        return project(inputs, count, radius)

    monkeypatch.setattr("trainer.snapshots.captured.project", counted)
    torch.manual_seed(0)
    wide = seen(nn.Sequential(nn.Linear(600, 3)), torch.randn(200, 600), torch.arange(200) % 3).captured["0"]
    for radius in (0.01, 0.5, 3.0):
        sent = wide.pack(radius)
        alone = project(wide.snapshot.inputs, 64, radius)
        assert sent.projection is not None
        np.testing.assert_array_equal(sent.projection.directions, alone.directions)
        assert sent.projection.radii.sum() == pytest.approx(alone.radii.sum(), rel=1e-6)
        assert (np.abs(alone.directions) @ sent.projection.radii).max() <= radius * (1 + 1e-9)
    assert len(found) == 1
    wide.with_samples(100, np.random.default_rng(0)).pack(0.1)
    assert len(found) == 2


@pytest.mark.parametrize("shape", [(100, 600), (600, 100)])
def test_inputs_that_are_all_zero_have_a_direction(shape: tuple[int, int]) -> None:
    """Then nothing is gained by any, and nothing fails."""
    found = project(np.zeros(shape, np.float32), 8, 0.1)
    assert found.directions.shape == (shape[1], 1)
    assert (np.abs(found.directions) @ found.radii).max() <= 0.1 * (1 + 1e-9)


def test_radii_are_those_of_the_whole_program() -> None:
    """Taking in rows of the linear program only where they bind gives the same optimum."""
    inputs = np.random.default_rng(1).normal(size=(300, 700)) ** 3
    found = project(inputs, 32, 0.1)
    magnitudes, spread = np.abs(found.directions), (inputs.astype(np.float32) @ found.directions).std(axis=0)
    whole = linprog(-spread, A_ub=magnitudes, b_ub=np.full(700, 0.1), bounds=(0, None), method="highs")
    assert spread @ found.radii == pytest.approx(-whole.fun, rel=1e-6)


@given(centre=st.floats(-100, 100, width=32), radius=st.floats(1e-6, 10), pull=st.floats(-3, 3))
def test_clipping_is_exact(centre: float, radius: float, pull: float) -> None:
    """Rounded to float32, a weight is still inside the box (or where no float32 lies inside, at its centre's side)."""
    middle = np.array([centre], np.float32)
    clipped = clip_to_box(middle + pull * radius, middle, radius).astype(np.float64)
    assert abs(clipped[0] - float(middle[0])) <= radius
