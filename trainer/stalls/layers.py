"""Which layers of a model a tunneller may look at, from what the user named and what may move."""

from collections.abc import Mapping, Sequence

from torch import nn

from trainer.errors import CaptureError
from trainer.snapshots.eligibility import Eligibility
from trainer.stalls.policy import AUTO

__all__ = ["AUTO", "candidates", "name_of", "names_of"]


def candidates(model: nn.Module, eligible: Mapping[str, Eligibility], layer: str | nn.Module | None) -> tuple[str, ...]:
    """Names of the layers that jobs may be about, in the model's order.

    The one given, else the last linear one; AUTO: all that may move. Raises CaptureError with reason and cure when
    there is none.
    """
    if not eligible:
        raise CaptureError("the model has no nn.Linear layer; GDSolver tunnels linear layers")
    if layer == AUTO:
        free = tuple(name for name, found in eligible.items() if found.why is None)
        if not free:
            raise CaptureError("no layer can be tunnelled: " + "; ".join(_why(found) for found in eligible.values()))
        return free
    name = name_of(model, eligible, layer)
    if eligible[name].why is not None:
        raise CaptureError(_why(eligible[name]))
    return (name,)


def name_of(model: nn.Module, eligible: Mapping[str, Eligibility], layer: str | nn.Module | None) -> str:
    """The name of a layer, given by name or as a module; the last nn.Linear if none is given."""
    if layer is None:
        plain = [name for name in eligible if isinstance(model.get_submodule(name), nn.Linear)]
        return (plain or list(eligible))[-1]
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
