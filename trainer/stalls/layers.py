"""Which layers of a model a tunneller may look at, from what the user named and what may move."""

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from trainer.errors import CaptureError, FinalLayerError
from trainer.model.blocks import no_layer
from trainer.model.eligibility import Eligibility
from trainer.stalls.policy import AUTO

__all__ = ["AUTO", "candidates", "name_of", "names_of"]


def candidates(model: nn.Module, eligible: Mapping[str, Eligibility], layer: str | nn.Module | None) -> tuple[str, ...]:
    """Names of the layers that jobs may be about, in the model's order.

    The one given; AUTO: all that may move; by default the linear one that is defined last, whether it may move or not:
    which is called last shows in the first batch. Raises CaptureError with reason and cure where none may move.
    """
    if not eligible:
        raise CaptureError(no_layer(model))
    if layer == AUTO:
        free = tuple(name for name, found in eligible.items() if found.why is None)
        if not free:
            raise CaptureError("no layer can be tunnelled: " + "; ".join(_why(found) for found in eligible.values()))
        return free
    name = name_of(model, eligible, layer)
    others = final_ones(model, eligible) if layer is None else ()
    if eligible[name].why is not None and all(eligible[other].why is not None for other in others):
        raise CaptureError(_why(eligible[name]))
    return (name,)


def final_ones(model: nn.Module, eligible: Mapping[str, Eligibility]) -> tuple[str, ...]:
    """Names of those that may be meant by the final layer, in the model's order; convolutions where all are."""
    plain = tuple(name for name in eligible if isinstance(model.get_submodule(name), nn.Linear))
    return plain or tuple(eligible)


def check_final(eligible: Mapping[str, Eligibility], called: Sequence[str], never_free: Collection[str]) -> None:
    """Raise FinalLayerError where the last of those `called` may not move, with the names of those that may."""
    if called and eligible[called[-1]].why is not None:
        free = ", ".join(repr(name) for name, found in eligible.items() if found.why is None)
        told = f"the final {_why(eligible[called[-1]])}; these may move, if given as `layer`: {free}"
        raise FinalLayerError(told, called[-1], always=called[-1] in never_free)


def name_of(model: nn.Module, eligible: Mapping[str, Eligibility], layer: str | nn.Module | None) -> str:
    """The name of a layer, given by name or as a module; the last nn.Linear if none is given."""
    if layer is None:
        return final_ones(model, eligible)[-1]
    named = _named(model).get(layer) if isinstance(layer, str) else layer
    for name in eligible:
        if layer == name or named is model.get_submodule(name):
            return name
    raise CaptureError(f"layer {layer!r:.80} is not an nn.Linear of this model; it has: {', '.join(eligible)}")


def names_of(model: nn.Module, tail: Sequence[str | nn.Module] | None) -> tuple[str | nn.Module, ...] | None:
    """A tail with its layers by their first names, where they were given as modules or by other names."""
    if tail is None:
        return None
    names, named = {id(module): name for name, module in model.named_modules()}, _named(model)
    linear = nn.Linear | nn.Conv2d
    modules = [named.get(part) if isinstance(part, str) else part for part in tail]
    pairs = zip(tail, modules, strict=True)
    return tuple(names.get(id(module), part) if isinstance(module, linear) else part for part, module in pairs)


def _named(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by all of their names: one may have several."""
    return dict(model.named_modules(remove_duplicate=False))


def _why(found: Eligibility) -> str:
    return f"layer {found.name!r} cannot be tunnelled: {found.why}"
