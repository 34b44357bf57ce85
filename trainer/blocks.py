"""Finds the layer to tunnel and the fixed layers behind it, by watching one forward pass instead of reading code."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.activations import IDENTITY, Activation
from trainer.errors import CaptureError

RELU = Activation("relu")
TRANSPARENT = (nn.Identity, nn.Dropout, nn.AlphaDropout)
"""Modules that do nothing in evaluation mode."""


@dataclass(frozen=True)
class Layer:
    """One linear layer by its name in the model, and the activation behind it."""

    name: str
    activation: Activation = IDENTITY


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


def find_layer(model: nn.Module, layer: str | nn.Module | None = None) -> str:
    """Name of the linear layer to tunnel: the one given, by name or as a module, else the last in the model.

    Raises CaptureError when there is no such layer, or it is not an `nn.Linear`.
    """
    linear: dict[str, nn.Linear] = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    if not linear:
        raise CaptureError("the model has no nn.Linear layer; GDSolver tunnels linear layers")
    if layer is None:
        return list(linear)[-1]
    for name, module in linear.items():
        if layer in (name, module):
            return name
    raise CaptureError(f"layer {layer!r:.80} is not an nn.Linear of this model; it has: {', '.join(linear)}")


def trace_block(model: nn.Module, name: str, inputs: Any) -> Block:
    """Find the activation and tail behind layer `name`; check on `inputs` (one batch) that they are the whole truth.

    The model must be a copy in evaluation mode. Raises CaptureError if what follows the layer is not a chain of
    linear layers and piecewise-linear activations.
    """
    calls, output = _watch(model, inputs)
    places = [place for place, call in enumerate(calls) if call.name == name]
    if len(places) != 1:
        raise CaptureError(f"layer {name!r} is used {len(places)} times in one forward pass; it must be used once")
    values = calls[places[0]].output
    if not isinstance(values, Tensor) or values.dim() != 2:
        raise CaptureError(f"layer {name!r} must put out a matrix [N, units]")
    chain = _read_chain(calls[places[0] :])
    for block in (chain, _with_hidden_relus(chain)) if chain else ():
        if _explains(block, model, values, output):
            return block
    raise CaptureError(
        f"what follows layer {name!r} is not a chain of nn.Linear, ReLU, LeakyReLU and Hardtanh; choose a later layer"
    )


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
        if isinstance(call.module, nn.Linear):
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
        module = model.get_submodule(layer.name)
        assert isinstance(module, nn.Linear)
        ours = ours @ module.weight.detach().double().cpu().numpy().T
        if module.bias is not None:
            ours = ours + module.bias.detach().double().cpu().numpy()
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
