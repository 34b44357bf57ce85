"""Proposes the chain of layers behind a block from what was seen while it moved, and says why where there is none."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from trainer.errors import CaptureError
from trainer.model.blocks import Block, Layer, linear_layers
from trainer.model.folding import OUTPUT
from trainer.model.joins import Join, Sight, farther, nearest_source
from trainer.model.recognise import seen_as, why_unknown

TRANSPARENT = (nn.Identity, nn.Dropout, nn.AlphaDropout, nn.Flatten, nn.Softmax, nn.LogSoftmax)
"""Modules that need not be named when a chain is refused: they do nothing to a matrix, or only at the end."""


def propose(sight: Sight, name: str) -> Block:
    """The chain from a layer to the model's output that explains what was seen, searched from the output backwards.

    Raises CaptureError if there is none.
    """
    moved = [name, *_moved(sight, name)]
    target, layers, found_link = None, list[Layer](), ""
    while not layers or layers[0].name != name:
        earlier = moved if target is None else moved[: moved.index(target)]
        found = nearest_source(sight, earlier, target)
        if found is None:
            raise CaptureError(_refusal(sight, name, earlier[-1], target))
        source, join = found
        layers = _prepended(layers, source, join)
        found_link, target = join.link or found_link, source
    return Block(layers[0], tuple(layers[1:]), found_link)


def _prepended(layers: list[Layer], name: str, join: Join) -> list[Layer]:
    """The chain with one more layer in front; what enters the next one is a matter of the next one."""
    direct = not layers or join.source is not None
    own = Layer(
        name,
        join.activation,
        before=join.before,
        offset=join.offset and direct,
        source=join.source,
        fixed=join.before is not None,
    )
    if layers and (join.enters is not None or (join.offset and not direct)):
        layers = [_entered(layers[0], join), *layers[1:]]
    return [own, *layers]


def _entered(layer: Layer, join: Join) -> Layer:
    """A layer whose inputs are normalised or have something added: its own weights can no longer move.

    What the output has beyond the last layer's contains what is added to that layer's inputs.
    """
    if join.offset and layer.source is not None and layer.source[0] != OUTPUT:
        raise CaptureError(refused(layer.name, "residual paths enter it before and behind its weights"))
    return replace(layer, enters=join.enters, offset=layer.offset or join.offset, fixed=True)


def described(model: nn.Module, name: str, tail: Sequence[str | nn.Module]) -> Block:
    """The chain that the user says follows a layer: layers by name or as modules, activations as modules."""
    named, linear = {id(module): path for path, module in model.named_modules()}, linear_layers(model)
    layers = [Layer(name)]
    for part in tail:
        path = part if isinstance(part, str) else named.get(id(part), "")
        if path in linear:
            layers.append(Layer(path))
        elif isinstance(part, str):
            raise CaptureError(
                f"the tail given for layer {name!r} names {part!r}, which is no linear layer; use one of: "
                f"{', '.join(linear)}"
            )
        elif (activation := seen_as(part)) is not None:
            layers[-1] = replace(layers[-1], activation=activation)
        elif not isinstance(part, TRANSPARENT):
            raise CaptureError(f"the tail given for layer {name!r} names {type(part).__name__}, which no job can hold")
    return Block(layers[0], tuple(layers[1:]))


def _moved(sight: Sight, name: str) -> list[str]:
    """The layers behind it whose inputs moved when it did, in order."""
    found = []
    for call in sight.between(name, None):
        if call.name in sight.passes[0].taken_in and call.name in sight.passes[0].put_out:
            first, *others = sight.taken_in(call.name)
            # units that are dead show only far away what they lead to
            others += [
                far.taken_in[call.name].astype(np.float64) for far in sight.far(name) if call.name in far.taken_in
            ]
            if any(sight.precision.differ(first, other) for other in others):
                found.append(call.name)
    return found


def _refusal(sight: Sight, name: str, near: str, target: str | None) -> str:
    """Why no chain was found, as far as can be told."""
    after = sight.output() if target is None else sight.taken_in(target)
    before = sight.put_out(near)
    known = ""
    if before[0].shape == after[0].shape:
        made, there = farther(sight, near, target)
        known = why_unknown(np.concatenate([*before, *made]), np.concatenate([*after, *there]), sight.precision)
    odd = [call.module for call in sight.between(near, target) if seen_as(call.module) is None]
    kinds = dict.fromkeys(type(module).__name__ for module in odd if not isinstance(module, (*TRANSPARENT, nn.Linear)))
    named = f"there is {known or ', '.join(kinds)}" if known or kinds else "something else is computed"
    where = "the model's output" if target is None else repr(target)
    return refused(name, f"between {near!r} and {where} {named}")


def refused(name: str, why: str) -> str:
    """The words for a layer that what follows stands against."""
    return (
        f"what follows layer {name!r} is not a chain of linear layers and activations that a job can hold: {why}; "
        "choose a later layer, or describe what follows with `tail`"
    )
