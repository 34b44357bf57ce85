"""What an optimizer's state of a parameter is once the parameter has new values: as if it had only begun there."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PLAIN = (int, float, str, type(None))
DIRECTIONS = frozenset({"momentum", "moment", "velocity", "mean", "avg", "buf", "buffer", "ema", "grad", "gradient"})
"""Parts of names of what goes on the old way."""
SQUARES = frozenset({"sq", "square", "squared", "var", "variance", "second", "norm", "scale", "max"})
"""Parts of names of what is divided by, and may not be 0."""
WEIGHTS = frozenset({"param", "params", "parameter", "weight", "weights", "anchor", "slow"})
"""Parts of names of what are copies of the parameter."""


def begun(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """The state with which a new optimizer begins for a parameter as it is; None where nobody knows before its step.

    Of an optimizer that cannot be made anew, which is not one of torch's: the present state, without what goes on the
    old way. A scale that began at 1 would not be one at 0.
    """
    kind, group = type(optimizer), next(_groups_of(optimizer, parameter), {})
    other = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    present = optimizer.state[parameter].items()
    try:
        made = kind([other], **_options(optimizer, group))
    except Exception:  # an optimizer of somebody's own may want more than is known
        if kind.__module__.startswith("torch.optim"):
            return None
        return {name: _onwards(name, value, parameter) for name, value in present}
    found = dict(made.state[other]) if other in made.state else _made_by_a_step(made, other)
    if found is None:
        return None
    return {name: _kept(group, name, value, parameter) for name, value in present} | found


def _made_by_a_step(made: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """What an optimizer of torch's prepares in its first step; None of others, which do that in their own ways."""
    prepare = getattr(made, "_init_group", None)
    if prepare is None:
        return None
    parameter.grad = torch.zeros_like(parameter)
    try:
        prepare(made.param_groups[0], *([] for _ in list(inspect.signature(prepare).parameters)[1:]))
    except Exception:  # what is private may change with any release
        return None
    return dict(made.state[parameter])


def _kept(group: dict[str, Any], name: str, value: Any, parameter: nn.Parameter) -> Any:
    """An entry that is not there before the first step, like momentum in SGD.

    A first momentum is the gradient itself, as is one that follows on 0 unless it is dampened. Fused kernels want one
    of all parameters, or of none.
    """
    if name == "momentum_buffer" and group.get("dampening") and not group.get("fused"):
        return None
    return _onwards(name, value, parameter)


def overwrite(state: dict[str, Any], fresh: dict[str, Any]) -> None:
    """Have a state's entries begin anew, in the tensors and types that they have."""
    for name, value in fresh.items():
        old = state.get(name)
        if isinstance(old, Tensor) and not old.is_inference() and _fits(old, value):
            old.copy_(torch.as_tensor(value))
        elif isinstance(old, int | float) and isinstance(value, Tensor):
            state[name] = type(old)(value.item())
        else:
            state[name] = value


def _fits(old: Tensor, value: Any) -> bool:
    return value.shape == old.shape if isinstance(value, Tensor) else isinstance(value, int | float)


def _options(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """With what an optimizer was made: its defaults, its group's, and the plain values that it has kept by name."""
    known = set(inspect.signature(type(optimizer).__init__).parameters) - {"params"}
    kept = {name: value for name, value in vars(optimizer).items() if isinstance(value, PLAIN)}
    return {name: value for name, value in (kept | optimizer.defaults | group).items() if name in known}


def _onwards(name: str, value: Any, parameter: nn.Parameter) -> Any:
    """An entry of a state that cannot be made anew, by its name and shape."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.is_floating_point():
        return value
    if _parts(name) & WEIGHTS:
        return parameter.detach().clone().to(value)
    if is_direction(name):
        return value.detach().clone().zero_()
    return value


def is_direction(name: object) -> bool:
    """Whether an entry of this name is what goes on the old way: momentum, or a mean of gradients."""
    parts = _parts(name)
    return bool(parts & DIRECTIONS) and not parts & (SQUARES | WEIGHTS)


def _parts(name: object) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower())) if isinstance(name, str) else set()


def _groups_of(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[dict[str, Any]]:
    return (group for group in optimizer.param_groups if any(one is parameter for one in group["params"]))
