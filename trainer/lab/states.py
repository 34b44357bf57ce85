"""Copies of a whole model's state, for methods that begin anew or go back to their best epoch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and persistent buffers."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return {name: value.detach().clone() for name, value in state.items()}


def write_state(model: nn.Module, state: State) -> None:
    """Write values into the model's own tensors, in place and bit by bit."""
    own = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
