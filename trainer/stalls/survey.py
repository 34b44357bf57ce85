"""Views of every layer that could be tunnelled: its dead units, and how large a job on it would be."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from trainer.model.view import LayerView
from trainer.model.whole_network import MOST_WEIGHTS, weight_count
from trainer.snapshots.capture import Captured, Look

NEARLY = 0.02
"""A unit that is active on a smaller share of the samples is nearly dead."""


def survey(look: Look, *, gradients: Mapping[str, float], tail_moves: bool, whole: bool) -> list[LayerView]:
    """View every layer that was captured, in the model's order.

    `gradients` are norms by layer name; `tail_moves` says that the last layer would move along with a hidden one. If
    `whole`, a network of few weights is a view of its own, from its first such layer on.
    """
    views = [view(captured, gradients.get(name), tail_moves=tail_moves) for name, captured in look.captured.items()]
    if not (whole and views):
        return views
    first = next(iter(look.captured.values()))
    count = weight_count(first.snapshot)
    if first.snapshot.tail and first.moves_whole and count <= MOST_WEIGHTS:
        return [replace(views[0], whole=True, moving=count), *views]
    return views


def relative_gradients(model: nn.Module, names: Mapping[str, object]) -> dict[str, float]:
    """The norm of each named layer's present gradient in units of its weight's own, for layers that have one."""
    found = {}
    for name in names:
        weight = model.get_submodule(name).weight
        if isinstance(weight, nn.Parameter) and weight.grad is not None:
            found[name] = (weight.grad.norm() / weight.detach().norm().clamp_min(1e-12)).item()
    return found


def view(captured: Captured, gradient: float | None, *, tail_moves: bool) -> LayerView:
    """One layer as it stands: which units are dead on the kept samples, and what one sample costs a job."""
    snapshot, active = captured.snapshot, captured.active
    weight, dead = snapshot.weight, active == 0
    last = snapshot.tail[-1].weight if snapshot.tail else weight
    moving = weight.size + len(weight) + (last.size + len(last) if snapshot.tail and tail_moves else 0)
    return LayerView(
        name=captured.block.layer.name,
        hidden=bool(snapshot.tail),
        units=len(weight),
        dead=int(dead.sum()),
        nearly_dead=int(((active < NEARLY) & ~dead).sum()),
        gradient=gradient,
        moving=moving,
        outputs=len(last),
        lift=captured.lift,
    )
