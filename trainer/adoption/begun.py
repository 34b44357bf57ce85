"""What an optimizer's state of a parameter is once the parameter has new values: as if it had only begun there."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

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
    """The state that a new optimizer has for a parameter as it is; None where there is none before the first step.

    Of an optimizer that cannot be made anew, which is not one of torch's: the present state, without what goes on the
    old way. A scale that began at 1 would not be one at 0.
    """
    kind, group = type(optimizer), next(_groups_of(optimizer, parameter), {})
    other = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    try:
        found = kind([other], **_options(optimizer, group)).state
    except Exception:  # an optimizer of somebody's own may want more than is known
        if kind.__module__.startswith("torch.optim"):
            return None
        return {name: _onwards(name, value, parameter) for name, value in optimizer.state[parameter].items()}
    return dict(found[other]) if other in found else None


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
