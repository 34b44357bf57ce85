"""Looks at every layer that could be tunnelled: its dead units, and how large a job on it would be."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.activations import Activation
from trainer.errors import CaptureError
from trainer.snapshots.blocks import Block, linear_layers, trace_block
from trainer.snapshots.capture import activations_of
from trainer.snapshots.samples import Source, choose_evenly
from trainer.snapshots.whole_network import MOST_WEIGHTS, weight_count
from trainer.stalls.policy import LayerView

SAMPLES = 500
NEARLY = 0.02
"""A unit that is active on a smaller share of the samples is nearly dead."""


def survey(
    model: nn.Module,
    source: Source,
    generator: np.random.Generator,
    *,
    gradients: Mapping[str, float],
    tail_moves: bool,
    whole: bool,
) -> list[LayerView]:
    """View every layer of a model (a CPU copy in evaluation mode) that a tunnel could go through.

    `gradients` are norms by layer name; `tail_moves` says that the last layer would move along with a hidden one. If
    `whole`, a network of few weights is a view of its own, from its first such layer on. Raises CaptureError when there
    is no such layer.
    """
    chosen = choose_evenly(source.size, SAMPLES, generator).positions
    probe, _ = source.fetch(chosen[:2].tolist())
    views, everything, why = list[LayerView](), list[LayerView](), "the model has no linear layer"
    for name in linear_layers(model):
        try:
            block = trace_block(model, name, probe)
        except CaptureError as error:
            why = str(error)
            continue
        views.append(_view(model, block, source, chosen, gradients.get(name), tail_moves=tail_moves))
        if whole and block.tail and len(views) == 1:
            everything = _whole(model, block, views[0])
    if not views:
        raise CaptureError(why)
    return [*everything, *views]


def _whole(model: nn.Module, block: Block, view: LayerView) -> list[LayerView]:
    """The view of a block with all layers behind it, if together they are small enough."""
    count = weight_count(model, block)
    return [replace(view, whole=True, moving=count)] if count <= MOST_WEIGHTS else []


def relative_gradients(model: nn.Module) -> dict[str, float]:
    """The norm of each layer's present gradient in units of its weight's own, for layers that have one."""
    found = {}
    for name, module in linear_layers(model).items():
        if module.weight.grad is not None:
            found[name] = (module.weight.grad.norm() / module.weight.detach().norm().clamp_min(1e-12)).item()
    return found


def _view(
    model: nn.Module,
    block: Block,
    source: Source,
    chosen: NDArray[np.int64],
    gradient: float | None,
    *,
    tail_moves: bool,
) -> LayerView:
    weight, bias = block.layer.matrix(model)
    inputs, _ = activations_of(model, block.layer.name, source, chosen)
    before = inputs.astype(np.float64) @ weight.T + (0.0 if bias is None else bias)
    active = _slope_share(block.layer.activation, before)
    dead = active == 0
    last = block.tail[-1].matrix(model)[0] if block.tail else weight
    moving = weight.size + len(weight) + (last.size + len(last) if block.tail and tail_moves else 0)
    return LayerView(
        name=block.layer.name,
        hidden=bool(block.tail),
        units=len(weight),
        dead=int(dead.sum()),
        nearly_dead=int(((active < NEARLY) & ~dead).sum()),
        gradient=gradient,
        moving=moving,
        outputs=len(last),
        lift=float(np.median(-before[:, dead], axis=0).max(initial=0.0)) if bias is not None else 0.0,
    )


def _slope_share(activation: Activation, before: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of samples [N] on which each unit's activation has a slope, by its pre-activations [N, h]."""
    match activation.name:
        case "relu":
            return np.asarray((before > 0).mean(axis=0))
        case "hardtanh":
            return np.asarray((np.abs(before) < 1).mean(axis=0))
    return np.ones(before.shape[1])
