"""The layers of a model that may be tunnelled, what stands against it, and the chain that a job sees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from shared.activations import IDENTITY, Activation
from trainer.errors import CaptureError
from trainer.model.wrappers import unwrap

Linear = nn.Linear | nn.Conv1d | nn.Conv2d
Weights = NDArray[np.float32]
Array = NDArray[np.float64]
Values = Mapping[str, NDArray[np.float32]]
"""Parameters of a model by name, as float32 arrays of their own shapes."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A normalisation in evaluation mode, per unit: `scale * z + shift`, each [h]; `mean` was subtracted in it."""

    scale: Array
    shift: Array
    mean: Array

    def __call__(self, values: Array) -> Array:
        """Normalise values [N, h]."""
        return self.scale * values + self.shift


@dataclass(frozen=True)
class Layer:
    """One linear layer of a chain, by its name in the model.

    Its pre-activation is `before(W x + b) + offset`, what it puts out `activation(...)`; `enters` is applied to what
    the layer takes in. Both are folded into the weights on the wire. `offset` says that a residual path is added;
    `source` names the layer whose input or output that is where it enters before the activation. `fixed` says that
    the layer cannot move with the block, because its offset or its folded weights would have to move along.
    """

    name: str
    activation: Activation = IDENTITY
    before: str | None = None
    enters: str | None = None
    offset: bool = False
    source: tuple[str, str] | None = None
    fixed: bool = False

    def matrix(self, model: nn.Module) -> tuple[Weights, Weights | None]:
        """Its weight [out, in] (a convolution's kernels as rows) and bias [out] or None, as the model has them."""
        module = linear_layer(model, self.name)
        bias = None if module.bias is None else _array(module.bias)
        return _array(module.weight).reshape(len(module.weight), -1), bias


@dataclass(frozen=True)
class Block:
    """The layer to tunnel, the layers from there to the model's scores, and what the model makes of the scores.

    `link` is "", or "log_softmax", "softmax" or "sigmoid" where the model puts out those of the scores.
    """

    layer: Layer
    tail: tuple[Layer, ...] = ()
    link: str = ""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them in order."""
        return (self.layer, *self.tail)

    def parameters(self) -> dict[str, str]:
        """The model's parameter names, by their wire names (`weight`, `bias`, `tail.I.weight`, ...)."""
        names = {part: named(self.layer.name, part) for part in ("weight", "bias")}
        for index, layer in enumerate(self.tail):
            names |= {f"tail.{index}.{part}": named(layer.name, part) for part in ("weight", "bias")}
        return names


def named(layer: str, part: str) -> str:
    """A parameter's name in the model, which may be the layer itself: then its parameters have no prefix."""
    return f"{layer}.{part}" if layer else part


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by their names in the model, whatever a `named_parameters` of the model's own gives."""
    return dict(nn.Module.named_parameters(unwrap(model), remove_duplicate=False))


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """The layers of a model that may be tunnelled, by name: linear ones, and convolutions."""
    return {name: module for name, module in unwrap(model).named_modules() if isinstance(module, Linear)}


def no_layer(model: nn.Module) -> str:
    """What to say of a model without such layers: torch.jit hides those that it has compiled."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in unwrap(model).modules()):
        return (
            "the model has no nn.Linear layer but what torch.jit has compiled; give the Tunneller the module that it "
            "was made from by torch.jit.script or trace: both have the same parameters"
        )
    return "the model has no nn.Linear layer; GDSolver tunnels linear layers"


def linear_layer(model: nn.Module, name: str) -> Linear:
    """One of them, by its name."""
    module = unwrap(model).get_submodule(name)
    assert isinstance(module, Linear)
    return module


def weight_size(mean: float, inputs: int) -> float:
    """How large a layer's weights are, for boxes around them: their mean |weight|, but not less than that of new ones.

    torch draws those uniformly in +-1 / sqrt(inputs), whose mean size is half of that. A head that begins at zero, or
    with tiny weights as transformers do, would have no box to speak of.
    """
    return max(mean, 0.5 / math.sqrt(inputs))


def find_layer(model: nn.Module, layer: str | nn.Module | None = None) -> str:
    """Name of the linear layer to tunnel: the one given, by name or as a module, else the last in the model.

    Raises CaptureError when there is no such layer, or it is not linear.
    """
    linear = linear_layers(model)
    plain = [name for name, module in linear.items() if isinstance(module, nn.Linear)]
    if not linear or (layer is None and not plain):
        raise CaptureError(no_layer(model))
    if layer is None:
        return plain[-1]
    for name, module in linear.items():
        if layer in (name, module):
            return name
    raise CaptureError(f"layer {layer!r:.80} is not an nn.Linear of this model; it has: {', '.join(linear)}")


Owners = Mapping[int, Sequence[str]]


def why_not(model: nn.Module, name: str, owners: Owners) -> str | None:
    """What stands against moving a layer's weights, whatever follows it; None if nothing does.

    `owners` are the names of each parameter of the model (`owners_of`).
    """
    module = model.get_submodule(name)
    assert isinstance(module, Linear)
    parameters = module._parameters
    if any(value is not None and is_lazy(value) for value in parameters.values()):
        return f"layer {name!r} is lazy: its weights do not exist yet; run the model once before"
    if is_parametrized(module) or parameters.get("weight") is None:
        return f"layer {name!r} is parametrized: its weight is computed from other parameters, which a job cannot move"
    if not module.weight.numel():
        return f"layer {name!r} has no weights: it takes in or puts out nothing"
    for part, value in parameters.items():
        if len(names := owners.get(id(value), ())) > 1:
            rival = next(owner for owner in names if owner != named(name, part))
            return f"layer {name!r} is tied: its {part} is also {rival!r}, and would move there, too"
    if not isinstance(module, nn.Linear) and (module.groups > 1 or _padded(module)):
        return f"layer {name!r} is a convolution with groups or padding; those are not linear layers"
    return None


def _padded(module: nn.Conv1d | nn.Conv2d) -> bool:
    padding = module.padding
    return padding != "valid" if isinstance(padding, str) else any(padding)


def owners_of(model: nn.Module) -> Owners:
    """Under which names each parameter object can be reached, wrappers of `torch.compile` not counted twice."""
    found: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for name, value in module._parameters.items():
            if value is not None:
                found.setdefault(id(value), []).append(named(prefix, name))
    return found


def applied_at(module: Linear, values: Tensor) -> Tensor | None:
    """What a layer takes in, as one row for each place where it is applied [P, d]; None if that is not so simple.

    A convolution of size 1 is applied at every pixel, one that covers its whole input once.
    """
    if isinstance(module, nn.Linear):
        return _rows(values)
    spatial = len(module.kernel_size)
    if values.dim() != spatial + 2:
        return None
    if set(module.kernel_size) == {1} and set(module.stride) == {1}:
        return values.movedim(1, -1).reshape(-1, values.shape[1])
    if tuple(module.kernel_size) == tuple(values.shape[2:]):
        return values.flatten(1)
    return None


def put_out(module: Linear, values: Tensor) -> Tensor:
    """What a layer puts out, as one row for each place where it is applied [P, h]."""
    by_place = values if isinstance(module, nn.Linear) else values.movedim(1, -1)
    return _rows(by_place)


def _rows(values: Tensor) -> Tensor:
    """The last dimension as rows [P, ...]; there may be none of it, in a layer of width 0."""
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def affine_of(model: nn.Module, name: str) -> Affine | None:
    """A batch normalisation's `scale` and `shift` in evaluation mode; None where it uses the batch's own statistics."""
    module = model.get_submodule(name)
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None:
        return None
    assert module.running_var is not None
    mean, variance = (_double(value) for value in (module.running_mean, module.running_var))
    scale = 1.0 / np.sqrt(variance + module.eps)
    if module.weight is not None:
        scale = scale * _double(module.weight)
    shift = -mean * scale
    return Affine(scale, shift if module.bias is None else shift + _double(module.bias), mean)


def _double(values: Tensor) -> Array:
    return np.array(values.detach().double().cpu().numpy())


def _array(values: Tensor) -> Weights:
    return np.array(values.detach().float().cpu().numpy())
