"""The model and the optimizer inside what libraries wrap around them."""

from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from trainer.errors import OptimizerError

WRAPPERS = (DistributedDataParallel, nn.DataParallel)
WRAPPER_NAMES = frozenset({"DeepSpeedEngine", "_FabricModule"})
"""Wrappers of libraries that need not be there, by class name."""
INNER_MODULES = ("module", "_original_module")
"""Where wrappers keep the model: Lightning Fabric's as the latter."""
INNER_OPTIMIZERS = ("optimizer", "opt", "_optimizer", "base_optimizer")
"""Where Accelerate, Lightning and Apex (`optimizer`), fastai (`opt`), SAM and others keep the optimizer they wrap."""


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel, a compiled module, or wrappers of these."""
    while True:
        names = INNER_MODULES if isinstance(model, WRAPPERS) or type(model).__name__ in WRAPPER_NAMES else ()
        # A compiled module, torch's OptimizedModule, is known by the name under which it keeps the original.
        inner = (model._modules[name] for name in (*names, "_orig_mod") if name in model._modules)
        found = next((module for module in inner if module is not None), None)
        if found is None:
            return model
        model = found


def unwrap_optimizer(optimizer: object) -> Optimizer:
    """The torch optimizer inside what Accelerate, Lightning, fastai and others wrap around it.

    Raises OptimizerError (also a TypeError) if there is none.
    """
    *_, last = optimizers(optimizer)
    if isinstance(last, Optimizer):
        return last
    if owns_weights(last):
        raise OptimizerError(owning(last))
    if len(several := _several(optimizer)) > 1:
        raise OptimizerError(
            f"optimizer is a {class_name(optimizer)} of {len(several)} optimizers; give the one that holds the layer "
            "to tunnel, with its weight and its bias: the others go on stepping beside it"
        )
    raise OptimizerError(
        f"optimizer is a {class_name(optimizer)}, which neither is nor wraps a torch.optim.Optimizer; "
        "give the torch optimizer whose step() changes the model (fastai: an OptimWrapper of one)"
    )


def optimizers(optimizer: object) -> Iterator[object]:
    """An optimizer and what it wraps, from the outside in."""
    seen: list[object] = []
    while not any(optimizer is other for other in seen):
        seen.append(optimizer)
        # AcceleratedOptimizer is itself an Optimizer, but without hooks of its own: what is inside decides.
        inner = (getattr(optimizer, name, None) for name in INNER_OPTIMIZERS)
        optimizer = next((part for part in inner if part is not None), optimizer)
    yield from seen


def _several(value: object) -> list[Optimizer]:
    """The optimizers in a list, a mapping, or an object that keeps them in one."""
    parts = [value, *getattr(value, "__dict__", {}).values()]
    found = [list(part.values()) if isinstance(part, Mapping) else part for part in parts]
    ones = [one for part in found if isinstance(part, list | tuple) for one in part]
    return [one for one in (*ones, *parts) if isinstance(one, Optimizer)]


def owns_weights(optimizer: object) -> bool:
    """Whether parameters are computed from the optimizer's state: schedule-free ones and Lookahead.

    Those that are only passed on to (Accelerate's have train() and eval(), too) are judged when their turn comes.
    """
    groups = getattr(optimizer, "param_groups", [])
    if any("train_mode" in group for group in groups) or "lookahead" in type(optimizer).__name__.lower():
        return True
    switches = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
    return switches and not any(hasattr(optimizer, name) for name in INNER_OPTIMIZERS)


def owning(optimizer: object) -> str:
    """Why such an optimizer is refused, and the cure."""
    return (
        f"{class_name(optimizer)} keeps weights of its own, from which it would undo the change; for now, train with "
        "an optimizer that only steps, like Adam or SGD"
    )


def class_name(value: object) -> str:
    """Where a class is from, without the dull `builtins`."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]}'s {kind.__name__}"
