"""Finds the layer to tunnel and the fixed layers behind it, by watching one forward pass instead of reading code."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.activations import IDENTITY, Activation
from trainer.errors import CaptureError

RELU = Activation("relu")
TRANSPARENT = (nn.Identity, nn.Dropout, nn.AlphaDropout, nn.Flatten)
"""Modules that do nothing to a matrix [N, units] in evaluation mode."""
Linear = nn.Linear | nn.Conv2d
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One linear layer by its name in the model, and the activation behind it."""

    name: str
    activation: Activation = IDENTITY

    def matrix(self, model: nn.Module) -> tuple[Weights, Weights | None]:
        """Its weight [out, in] (a convolution's kernels as rows) and bias [out] or None."""
        module = model.get_submodule(self.name)
        assert isinstance(module, Linear)
        bias = None if module.bias is None else _array(module.bias)
        return _array(module.weight).reshape(len(module.weight), -1), bias


@dataclass(frozen=True)
class Block:
    """The layer to tunnel, and the layers from there to the model's output."""

    layer: Layer
    tail: tuple[Layer, ...] = ()

    def parameters(self) -> dict[str, str]:
        """The model's parameter names, by their wire names (`weight`, `bias`, `tail.I.weight`, ...)."""
        names = {part: f"{self.layer.name}.{part}" for part in ("weight", "bias")}
        for index, layer in enumerate(self.tail):
            names |= {f"tail.{index}.{part}": f"{layer.name}.{part}" for part in ("weight", "bias")}
        return names


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """The layers of a model that may be tunnelled, by name: linear ones, and convolutions."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


def find_layer(model: nn.Module, layer: str | nn.Module | None = None) -> str:
    """Name of the linear layer to tunnel: the one given, by name or as a module, else the last in the model.

    Raises CaptureError when there is no such layer, or it is not linear.
    """
    linear = linear_layers(model)
    plain = [name for name, module in linear.items() if isinstance(module, nn.Linear)]
    if not linear or (layer is None and not plain):
        raise CaptureError("the model has no nn.Linear layer; GDSolver tunnels linear layers")
    if layer is None:
        return plain[-1]
    for name, module in linear.items():
        if layer in (name, module):
            return name
    raise CaptureError(f"layer {layer!r:.80} is not an nn.Linear of this model; it has: {', '.join(linear)}")


def trace_block(model: nn.Module, name: str, inputs: Any, tail: Sequence[str | nn.Module] | None = None) -> Block:
    """Find the activation and tail behind layer `name`; check on `inputs` (one batch) that they are the whole truth.

    `tail` describes what follows where watching modules does not show it: layers by name, and activations as modules.
    The model must be a copy in evaluation mode. Raises CaptureError if what follows the layer is not a chain of
    linear layers and piecewise-linear activations.
    """
    calls, output = _watch(model, inputs)
    places = [place for place, call in enumerate(calls) if call.name == name]
    if len(places) != 1:
        raise CaptureError(f"layer {name!r} is used {len(places)} times in one forward pass; it must be used once")
    values = _matrix(calls[places[0]])
    described = None if tail is None else [calls[places[0]], *_described(model, tail)]
    chain = _read_chain(described or calls[places[0] :])
    for block in (chain, _with_hidden_relus(chain)) if chain else ():
        if _explains(block, model, values, output):
            return block
    if tail is not None:
        raise CaptureError(f"the tail given for layer {name!r} does not lead to the model's output")
    raise CaptureError(
        f"what follows layer {name!r} is not a chain of nn.Linear, ReLU, LeakyReLU and Hardtanh; choose a later layer, "
        "or describe what follows with `tail`"
    )


def _matrix(call: "_Call") -> Tensor:
    """A layer's output as a matrix [N, units]; CaptureError for one that is applied at many places at once."""
    values = call.output
    if isinstance(values, Tensor) and values.dim() == 4 and isinstance(call.module, nn.Conv2d):
        units, places = values.shape[1], values.shape[2] * values.shape[3]
        if places > 1:
            raise CaptureError(
                f"layer {call.name!r} is too large: a convolution at {places} places has {units * places:,} units that "
                "share weights; only one whose kernel covers its whole input is a linear layer"
            )
        if call.module.groups > 1 or any(call.module.padding):
            raise CaptureError(f"layer {call.name!r} is a convolution with groups or padding; those are not linear")
        return values.flatten(1)
    if not isinstance(values, Tensor) or values.dim() != 2:
        raise CaptureError(f"layer {call.name!r} must put out a matrix [N, units]")
    return values


def _described(model: nn.Module, tail: Sequence[str | nn.Module]) -> "Iterator[_Call]":
    """What the user says follows a layer, in the form in which it is otherwise watched."""
    for part in tail:
        linear = isinstance(part, str | Linear)
        name = find_layer(model, part) if linear else ""
        module = model.get_submodule(name) if linear else part
        assert isinstance(module, nn.Module)
        yield _Call(name, module, None)


def _array(values: Tensor) -> Weights:
    return np.array(values.detach().float().cpu().numpy())


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    output: Any


def _watch(model: nn.Module, inputs: Any) -> tuple[list[_Call], Any]:
    """Run the model once and note its leaf modules in the order in which they were called."""
    calls: list[_Call] = []
    with _hooks(model, calls), torch.no_grad():
        output = model(inputs)
    return calls, output


@contextmanager
def _hooks(model: nn.Module, calls: list[_Call]) -> Iterator[None]:
    def note(name: str) -> Any:
        return lambda module, _, output: calls.append(_Call(name, module, output))

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read_chain(calls: Sequence[_Call]) -> Block | None:
    """The layers among these calls, or None if there is something else between them."""
    layers: list[Layer] = []
    for call in calls:
        if isinstance(call.module, Linear):
            layers.append(Layer(call.name))
        elif (activation := _activation(call.module)) is not None and layers[-1].activation == IDENTITY:
            layers[-1] = replace(layers[-1], activation=activation)
        elif not isinstance(call.module, TRANSPARENT) and not _is_output_scaling(call.module):
            return None
    return Block(layers[0], tuple(layers[1:]))


def _activation(module: nn.Module) -> Activation | None:
    match module:
        case nn.ReLU():
            return RELU
        case nn.LeakyReLU() if 0 <= module.negative_slope < 1:
            return Activation("leaky_relu", float(module.negative_slope))
        case nn.Hardtanh() if (module.min_val, module.max_val) == (-1.0, 1.0):
            return Activation("hardtanh")
    return None


def _is_output_scaling(module: nn.Module) -> bool:
    """True for a softmax at the end: it keeps the order of the scores, so the class that wins is the same."""
    return isinstance(module, nn.Softmax | nn.LogSoftmax)


def _with_hidden_relus(block: Block) -> Block:
    """The same chain with a ReLU wherever no activation was seen: `F.relu` calls leave no module behind."""
    layers = [block.layer, *block.tail]
    shown = [replace(layer, activation=RELU) if layer.activation == IDENTITY else layer for layer in layers[:-1]]
    first, *rest = [*shown, layers[-1]]
    return Block(first, tuple(rest))


def _explains(block: Block, model: nn.Module, values: Tensor, output: Any) -> bool:
    """Whether the chain, applied to the layer's values [N, h], gives the model's output (or at least its winners)."""
    if not isinstance(output, Tensor):
        return False
    ours = _activate(values.double().cpu().numpy(), block.layer)
    for layer in block.tail:
        weight, bias = layer.matrix(model)
        if ours.shape[1] != weight.shape[1]:
            return False
        ours = ours @ weight.T.astype(np.float64) + (0.0 if bias is None else bias)
        ours = _activate(ours, layer)
    theirs = output.detach().double().cpu().numpy()
    if ours.shape != theirs.shape and ours.size != theirs.size:
        return False
    theirs = theirs.reshape(ours.shape)
    same = bool(np.allclose(ours, theirs, rtol=1e-3, atol=1e-4))
    return same or (ours.shape[1] > 1 and _are_log_probabilities(ours, theirs))


def _activate(values: np.ndarray[Any, np.dtype[np.float64]], layer: Layer) -> np.ndarray[Any, np.dtype[np.float64]]:
    return layer.activation(values)


def _are_log_probabilities(scores: np.ndarray[Any, Any], output: np.ndarray[Any, Any]) -> bool:
    """Whether `output` is the (log-)softmax of `scores`, row by row."""
    logs = torch.log_softmax(torch.from_numpy(scores), dim=1).numpy()
    return bool(np.allclose(logs, output, rtol=1e-3, atol=1e-4) or np.allclose(np.exp(logs), output, atol=1e-5))
