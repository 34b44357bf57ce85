"""Computes a chain of layers as it travels: normalisations folded into weights, residual paths as offsets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.activations import Activation
from trainer.model.blocks import Affine, Array, Block, Layer, affine_of
from trainer.model.watch import Recording

MOST_EXACT = 20_000_000
"""Products of a chain up to which it is computed in float64."""
OUTPUT = "output"
"""In place of a source's layer: the offset is what the model's output has beyond the last layer's."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A layer on the wire: `activation(weight x + bias + offset)`, float64.

    weight [out, in], bias [out] or None, offset [N, out] or None. `scale` [out] is what its own weights were multiplied
    by, None where they were not; `entering` is the normalisation of its inputs that the weights contain.
    """

    weight: Array
    bias: Array | None
    activation: Activation
    offset: Array | None = None
    scale: Array | None = None
    entering: Affine | None = None

    def before(self, values: Array) -> Array:
        """The pre-activations [N, out] of inputs [N, in]."""
        made = values @ self.weight.T.astype(values.dtype, copy=False)
        for part in (self.bias, self.offset):
            made = made if part is None else made + part.astype(values.dtype, copy=False)
        return made


def fold(model: nn.Module, block: Block) -> list[Folded]:
    """The layers of a block with the weights that the model has now, without offsets."""
    return [_fold(model, layer) for layer in block.layers]


def _fold(model: nn.Module, layer: Layer) -> Folded:
    own_weight, own_bias = layer.matrix(model)
    weight = own_weight.astype(np.float64)
    bias = None if own_bias is None else own_bias.astype(np.float64)
    scale, entering = None, None
    if layer.enters is not None:
        entering = _affine(model, layer.enters)
        shift = weight @ entering.shift
        weight, bias = weight * entering.scale, shift if bias is None else bias + shift
    if layer.before is not None:
        behind = _affine(model, layer.before)
        scale, weight = behind.scale, behind.scale[:, None] * weight
        bias = behind.shift if bias is None else behind.scale * bias + behind.shift
    return Folded(weight, bias, layer.activation, None, scale, entering)


def _affine(model: nn.Module, name: str) -> Affine:
    found = affine_of(model, name)
    assert found is not None, "a block names only normalisations that were found to be affine"
    return found


def with_offsets(layers: Sequence[Folded], block: Block, seen: Recording) -> list[Folded]:
    """The same layers with the residual paths that a recording shows: what layers take in beyond what the chain says.

    A path that enters layer I's input adds `weight (input - chain's input)` to its pre-activation.
    """
    if not any(layer.offset for layer in block.layers):
        return list(layers)
    done: list[Folded] = []
    values = seen.taken_in[block.layer.name].astype(np.float64)
    for layer, folded in zip(block.layers, layers, strict=True):
        offset = _offset(layer, folded, values, seen)
        done.append(folded if offset is None else replace(folded, offset=offset))
        values = done[-1].activation(done[-1].before(values))
    return done


def _offset(layer: Layer, folded: Folded, values: Array, seen: Recording) -> Array | None:
    if not layer.offset:
        return None
    if layer.source is None:
        taken_in = seen.taken_in[layer.name].astype(np.float64)
        if folded.entering is not None:  # the folded weight takes what comes before the normalisation, as `values` are
            scale = folded.entering.scale
            taken_in = (taken_in - folded.entering.shift) / np.where(scale == 0.0, 1.0, scale)
        return np.asarray((taken_in - values) @ folded.weight.T)
    kind, name = layer.source
    if kind == OUTPUT:
        return seen.output.astype(np.float64) - folded.before(values)
    return (seen.taken_in if kind == "taken_in" else seen.put_out)[name].astype(np.float64)


def absorbs(block: Block) -> bool:
    """Whether a residual path is what the chain leaves over: then it explains the model as it is, right or wrong."""
    return any(layer.offset and (layer.source is None or layer.source[0] == OUTPUT) for layer in block.layers)


def recorded_for(block: Block) -> tuple[set[str], set[str]]:
    """Of which layers a recording must hold the inputs and the outputs, for `with_offsets`."""
    inputs, outputs = {block.layer.name}, set[str]()
    for layer in block.layers:
        if layer.offset and layer.source is None:
            inputs.add(layer.name)
        elif layer.source is not None and layer.source[0] != OUTPUT:
            (inputs if layer.source[0] == "taken_in" else outputs).add(layer.source[1])
    return inputs, outputs


def converted(layers: Sequence[Folded], values: NDArray[Any]) -> NDArray[Any]:
    """Block inputs [N, d] in the precision in which `scores` computes a chain; the same ones if they have it."""
    products = len(values) * sum(layer.weight.size for layer in layers)
    return values.astype(np.float64 if products < MOST_EXACT else np.float32, copy=False)


def scores(layers: Sequence[Folded], values: NDArray[Any]) -> tuple[Array, Array]:
    """What the chain puts out [N, K] for block inputs [N, d], and the size of the terms it is the sum of [N, 1].

    Rounding may move outputs by about a unit of the last place of that size: by the Pythagorean rule, terms `w_j x_j`
    of random signs. Large chains are computed in float32, as the model does.
    """
    result: Array = converted(layers, values)
    for layer in layers:
        entering, result = result, layer.activation(layer.before(result))
    last = layers[-1]
    size = np.sqrt(np.einsum("nd,nd->n", entering, entering))[:, None]  # several times as fast as numpy's own norm
    size = size * np.sqrt(np.square(last.weight).mean(axis=1).max())
    size = size + (0.0 if last.bias is None else np.abs(last.bias).max())
    if last.offset is not None:
        size = size + np.abs(last.offset).max(axis=1, keepdims=True)
    return result.astype(np.float64), size.astype(np.float64)


def link(name: str, values: Array) -> Array:
    """What the model makes of its scores [N, K]."""
    match name:
        case "log_softmax":
            return _log_softmax(values)
        case "softmax":
            return np.asarray(np.exp(_log_softmax(values)))
        case "sigmoid":
            return np.asarray(0.5 * (np.tanh(0.5 * values) + 1.0))
    return values


def unlink(name: str, values: Array) -> Array:
    """Scores that the model's outputs come from; of a softmax up to a constant a sample, which changes no margin."""
    tiny = 1e-30
    match name:
        case "softmax":
            return np.asarray(np.log(np.maximum(values, tiny)))
        case "sigmoid":
            return np.asarray(np.log(np.maximum(values, tiny)) - np.log(np.maximum(1.0 - values, tiny)))
    return values


def _log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


LINKS: Mapping[str, tuple[str, ...]] = {
    "classification": ("log_softmax", "softmax"),
    "binary": ("sigmoid",),
    "multilabel": ("sigmoid",),
    "regression": (),
}
"""What a model may make of its scores, by task: the class that wins stays the same."""
