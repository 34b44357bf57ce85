"""What may move: each reason against it on a real torch object, or on a small stand-in of a library's."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim import LBFGS, SGD, Adam, Optimizer

from trainer.errors import OptimizerError, TrainerError
from trainer.model.eligibility import eligible
from trainer.model.wrappers import unwrap, unwrap_optimizer
from trainer.stalls.layers import name_of, names_of


def a_model() -> nn.Sequential:
    """Layers `0` (4 -> 3) and `2` (3 -> 2)."""
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def reasons(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, str | None]:
    optimizer = optimizer or SGD(model.parameters(), lr=0.1)
    return {name: layer.why for name, layer in eligible(model, optimizer).items()}


def test_a_plain_model_may_move_as_a_whole() -> None:
    """Every linear layer is listed with its kind and sizes, and nothing speaks against it."""
    model = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten(), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    found = eligible(model, Adam(model.parameters()))
    assert [(layer.name, layer.kind, layer.units, layer.inputs, layer.why) for layer in found.values()] == [
        ("0", "Conv2d 4x4", 3, 16, None),
        ("2", "Linear", 2, 3, None),
    ]


@pytest.mark.parametrize("kind", [SGD, Adam, LBFGS])
def test_optimizers_that_only_step_are_welcome(kind: Any) -> None:
    """L-BFGS, too: it keeps gradients and steps, no weights."""
    model = a_model()
    assert reasons(model, kind(model.parameters(), lr=0.1)) == {"0": None, "2": None}


def test_half_precision_may_move() -> None:
    """bfloat16 layers are floating-point layers."""
    assert reasons(a_model().bfloat16()) == {"0": None, "2": None}


# --- trainable and owned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_frozen_part_is_named(part: str) -> None:
    """requires_grad=False on either parameter keeps the whole layer where it is."""
    model = a_model()
    getattr(model[0], part).requires_grad_(False)
    found = reasons(model)
    assert found["0"] is not None
    assert f"its {part} is frozen" in found["0"]
    assert found["2"] is None


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_part_that_the_optimizer_does_not_hold_is_named(part: str) -> None:
    """Trainable is not enough: somebody else's parameters stay."""
    model = a_model()
    held = [parameter for name, parameter in model.named_parameters() if name != f"2.{part}"]
    found = reasons(model, SGD(held, lr=0.1))
    assert found["0"] is None
    assert f"the optimizer does not hold its {part}" in str(found["2"])


def test_an_optimizer_of_another_model_is_named_once_for_all() -> None:
    """An optimizer made before the model was replaced holds none of its parameters."""
    found = reasons(a_model(), SGD(a_model().parameters(), lr=0.1))
    assert all("holds none of the model's parameters" in str(why) for why in found.values())


class LoraLinear(nn.Module):
    """As in PEFT: a frozen base layer, and two small trainable ones beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 3).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 1, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(1, 3, bias=False)})


def test_of_an_adapter_only_what_is_trainable_may_move() -> None:
    """The base layer of LoRA stays, its two factors may move."""
    model = LoraLinear()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = reasons(model, Adam(trainable))
    assert "frozen" in str(found.pop("base_layer"))
    assert found == {"lora_A.default": None, "lora_B.default": None}


# --- tied -------------------------------------------------------------------------------------------------------------


def test_a_tied_embedding_is_named() -> None:
    """One Parameter under two names: the output layer names the embedding that would move with it."""
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5)})
    model["head"].weight = model["embedding"].weight
    assert "its weight is tied to embedding.weight" in str(reasons(model)["head"])


def test_a_layer_under_two_names_is_one_layer() -> None:
    """It is listed once, and is not tied to itself; it can be given by either name."""
    layer = nn.Linear(3, 3)
    model = nn.ModuleDict({"first": layer, "second": layer})
    found = eligible(model, SGD(model.parameters(), lr=0.1))
    assert {name: one.why for name, one in found.items()} == {"first": None}
    assert {name_of(model, found, given) for given in ("first", "second", layer)} == {"first"}
    assert names_of(model, ["second", layer, "third", nn.ReLU]) == ("first", "first", "third", nn.ReLU)


def test_a_parameter_in_two_layers_is_tied() -> None:
    """Also where one of them has two names."""
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
    model["third"], model["second"].weight = model["second"], model["first"].weight
    assert "its weight is tied to second.weight" in str(reasons(model)["first"])
    assert "its weight is tied to first.weight" in str(reasons(model)["second"])


def test_two_parameters_on_the_same_memory_are_tied() -> None:
    """A transposed view shares its storage without being the same object."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
    model[1].weight = nn.Parameter(model[0].weight.detach().T)
    found = reasons(model)
    assert "tied to 1.weight" in str(found["0"])
    assert "tied to 0.weight" in str(found["1"])


def test_neighbours_in_one_buffer_are_not_tied() -> None:
    """Parameters that lie side by side in one flat tensor do not touch each other."""
    model, flat = a_model(), torch.zeros(100)
    model[0].weight = nn.Parameter(flat[:12].view(3, 4))
    model[2].weight = nn.Parameter(flat[12:18].view(2, 3))
    assert reasons(model) == {"0": None, "2": None}


# --- held in place ----------------------------------------------------------------------------------------------------


def of_a_library(gradient: Tensor) -> None:
    """Looks on, as wandb's hooks do."""


of_a_library.__module__ = "numpy.watching"


def test_weights_that_a_gradient_hook_may_hold_stay() -> None:
    """A mask over gradients keeps old classes or zeros as they are; what libraries hook in looks on."""
    model, mask = a_model(), torch.zeros(2, 3)
    model[2].weight.register_hook(of_a_library)
    model[0].weight.register_post_accumulate_grad_hook(lambda parameter: None)
    assert reasons(model) == {"0": None, "2": None}
    for hook in (lambda gradient: gradient * mask, partial(torch.mul, mask), mask.mul):
        handle = model[2].weight.register_hook(hook)
        assert reasons(model)["0"] is None
        assert "its weight has a gradient hook" in str(reasons(model)["2"])
        handle.remove()
    assert reasons(model)["2"] is None


# --- recomputed, unmade, in parts, in few bits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (parametrizations.weight_norm, "remove_parametrizations"),
        (parametrizations.spectral_norm, "remove_parametrizations"),
        (parametrizations.orthogonal, "remove_parametrizations"),
        (torch.nn.utils.spectral_norm, "recomputed from other parameters"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "prune.remove"),
    ],
)
def test_a_weight_that_is_recomputed_stays(change: Callable[[nn.Module], object], named: str) -> None:
    """Whatever computes the weight anew would undo the change; the cure says how to make it final."""
    model = a_model()
    change(model[0])
    found = reasons(model)
    assert named in str(found["0"])
    assert found["2"] is None


def test_the_old_weight_norm_is_recognised() -> None:
    """It leaves `weight_g` and `weight_v` as parameters, and `weight` as a plain attribute."""
    model = a_model()
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(model[0])
    assert "remove_weight_norm" in str(reasons(model)["0"])


def test_a_lazy_layer_has_to_see_a_batch_first() -> None:
    """Without a shape there is nothing to solve."""
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(2))
    found = reasons(model)
    assert found["0"] is None
    assert "run one batch" in str(found["1"])


def test_a_layer_without_values_is_named() -> None:
    """Meta tensors have shapes only."""
    model = nn.Sequential(nn.Linear(4, 3, device="meta"), nn.Linear(3, 2))
    found = reasons(model)
    assert "meta device" in str(found["0"])
    assert found["1"] is None


class FlatParameter(nn.Parameter):
    """Stand-in for FSDP's."""


class Params4bit(nn.Parameter):
    """Stand-in for that of bitsandbytes."""

    quant_state = None


def with_weight(weight: nn.Parameter) -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.weight = weight
    return layer


@pytest.mark.parametrize(
    ("weight", "named"),
    [
        (FlatParameter(torch.zeros(3, 4)), "sharded"),
        (Params4bit(torch.zeros(6, 1, dtype=torch.uint8), requires_grad=False), r"quantized \(uint8\)"),
        (nn.Parameter(torch.zeros(3, 4, dtype=torch.int8), requires_grad=False), r"quantized \(int8\)"),
        (nn.Parameter(torch.zeros(3, 4).to(torch.float8_e4m3fn), requires_grad=False), "float8_e4m3fn"),
        (nn.Parameter(torch.zeros(3, 4, dtype=torch.complex64)), "complex64"),
    ],
)
def test_a_weight_that_is_no_plain_array_is_named(weight: nn.Parameter, named: str) -> None:
    """Sharded, packed and complex weights each have their reason."""
    model = nn.Sequential(with_weight(weight), nn.Linear(3, 2))
    found = reasons(model)
    assert found["0"] is not None
    with pytest.raises(TrainerError, match=named):
        raise TrainerError(found["0"])
    assert found["1"] is None


def test_deepspeed_s_mark_on_a_parameter_is_recognised() -> None:
    """Under ZeRO-3 each parameter carries a `ds_id`, and its values are elsewhere."""
    model = a_model()
    model[0].weight.ds_id = 0
    assert "DeepSpeed" in str(reasons(model)["0"])


class FullyShardedDataParallel(nn.Module):
    """Stand-in for FSDP's wrapper: without the original parameters its layers have plain tensors for weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


def test_a_sharded_model_is_refused_as_a_whole() -> None:
    """Wherever an FSDP wrapper sits in the model."""
    found = reasons(nn.Sequential(nn.Linear(4, 4), FullyShardedDataParallel(nn.Linear(4, 3))))
    assert all("sharded" in str(why) for why in found.values())


# --- layers that are not what they seem -------------------------------------------------------------------------------


class Doubling(nn.Linear):
    """A linear layer by name only."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (Doubling(4, 3), r"forward\(\) of its own"),
        (nn.MultiheadAttention(4, 2), "MultiheadAttention"),
        (nn.Conv2d(4, 4, 1, groups=2), "groups"),
        (nn.Conv2d(4, 4, 3, padding=1), "padded convolution"),
        (nn.Conv2d(4, 4, 3, padding="same"), "padded convolution"),
        (nn.Conv2d(4, 4, 1, padding=1), "padding=0"),
        (nn.Conv2d(4, 4, 1), None),
        (nn.Conv2d(4, 4, 3, padding="valid"), None),
    ],
)
def test_layers_that_compute_something_else_are_named(layer: nn.Module, named: str | None) -> None:
    """Classes with a forward of their own, the inside of an attention, convolutions that are not linear."""
    (why,) = reasons(layer).values()
    if named is None:
        assert why is None
    else:
        with pytest.raises(TrainerError, match=named):
            raise TrainerError(why)


# --- wrappers ---------------------------------------------------------------------------------------------------------


class AcceleratedOptimizer(Optimizer):
    """Stand-in for Accelerate's: an Optimizer without an Optimizer's inside, with train() and eval() to pass on."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    def train(self) -> None:
        """Passed on to optimizers that have it."""

    def eval(self) -> None:
        """Passed on to optimizers that have it."""


class OptimWrapper:
    """Stand-in for fastai's."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.opt = optimizer


class LightningOptimizer:
    """Stand-in for Lightning's."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def optimizer(self) -> Optimizer:
        return self._optimizer


@pytest.mark.parametrize("wrapper", [AcceleratedOptimizer, OptimWrapper, LightningOptimizer])
def test_wrapped_optimizers_are_unwrapped(wrapper: Any) -> None:
    """Also twice over; and the layers are judged by what is inside."""
    model = a_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    assert unwrap_optimizer(optimizer) is optimizer
    assert unwrap_optimizer(wrapper(optimizer)) is optimizer
    assert unwrap_optimizer(OptimWrapper(wrapper(optimizer))) is optimizer
    assert reasons(model, wrapper(optimizer)) == {"0": None, "2": None}


@pytest.mark.parametrize("thing", [None, "adam", torch.optim.lr_scheduler.LambdaLR])
def test_what_is_no_optimizer_is_named(thing: object) -> None:
    """The error says what it got and what it wants, and is a TypeError, too."""
    with pytest.raises(OptimizerError, match=r"optimizer is a \w+.*torch\.optim\.Optimizer"):
        unwrap_optimizer(thing)
    with pytest.raises(TypeError):
        unwrap_optimizer(thing)


class ScheduleFree(SGD):
    """Stand-in for schedule-free SGD: the model holds a mix of weights that the optimizer keeps."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        for group in self.param_groups:
            group["train_mode"] = False


class Switched(SGD):
    """Stand-in for wrappers of schedule-free optimizers: train() and eval() exchange the weights."""

    def train(self) -> None:
        """Put the training weights into the model."""

    def eval(self) -> None:
        """Put the averaged weights into the model."""


class Lookahead(SGD):
    """Stand-in: slow weights pull the fast ones back."""


@pytest.mark.parametrize(
    "make",
    [
        ScheduleFree,
        lambda parameters: Switched(parameters, lr=0.1),
        lambda parameters: Lookahead(parameters, lr=0.1),
        lambda parameters: AcceleratedOptimizer(ScheduleFree(parameters)),
    ],
)
def test_optimizers_that_own_the_weights_are_refused(make: Callable[[Any], Optimizer]) -> None:
    """For every layer, with the cure, also inside a wrapper."""
    model = a_model()
    found = reasons(model, make(model.parameters()))
    assert all("keeps weights of its own" in str(why) for why in found.values())


class ScheduleFreeWrapper:
    """Stand-in for schedule-free's wrapper of any optimizer, which is none itself."""

    def __init__(self, base: Optimizer) -> None:
        self.base, self.param_groups = base, base.param_groups

    def train(self) -> None:
        """Put the training weights into the model."""

    def eval(self) -> None:
        """Put the averaged weights into the model."""


def test_a_wrapper_that_owns_the_weights_is_named_as_such() -> None:
    """Though it is no torch optimizer either."""
    with pytest.raises(OptimizerError, match="ScheduleFreeWrapper keeps weights of its own"):
        unwrap_optimizer(ScheduleFreeWrapper(SGD(a_model().parameters(), lr=0.1)))


class _FabricModule(nn.Module):
    """Stand-in for Lightning Fabric's: it keeps the module twice, as it is and as it is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._forward_module = nn.DataParallel(module)
        self._original_module = module


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def test_wrapped_models_are_unwrapped() -> None:
    """DataParallel, torch.compile, and both at once lead to the module itself; names are those inside."""
    model = a_model()
    assert unwrap(model) is model
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(compiled(model)) is model
    assert unwrap(compiled(nn.DataParallel(model))) is model
    assert unwrap(_FabricModule(compiled(model))) is model
    assert reasons(compiled(model)) == {"0": None, "2": None}


# --- more than one process --------------------------------------------------------------------------------------------


@pytest.fixture
def one_rank(tmp_path: Any) -> Iterator[None]:
    """A process group of one, as torchrun makes it on a machine with one device."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_one_rank_is_welcome(one_rank: None) -> None:
    """DistributedDataParallel of one rank is unwrapped like any wrapper."""
    model = a_model()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert unwrap(wrapped) is model
    assert reasons(wrapped) == {"0": None, "2": None}


def test_a_real_dtensor_is_sharded(one_rank: None) -> None:
    """Recognised by its class, without importing it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = a_model()
    distribute_module(model[0], init_device_mesh("cpu", (1,)))
    found = reasons(model)
    assert "sharded" in str(found["0"])
    assert found["2"] is None
