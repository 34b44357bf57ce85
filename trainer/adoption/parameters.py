"""Reads and writes single parameters of a live model by name: all that a tunnel ever copies of it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer


def read(model: nn.Module, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Copies of the parameters that the model has under these names, as float32 arrays."""
    own = dict(model.named_parameters())
    return {name: own[name].detach().to("cpu", torch.float32, copy=True).numpy() for name in names if name in own}


def write(model: nn.Module, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Write values into the model's own tensors, in place, in their own dtype and on their device."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in values.items():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(own[name].shape))


@contextmanager
def put_back(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Restore these parameters bit by bit afterwards, whatever happens."""
    own = dict(model.named_parameters())
    kept: dict[str, Tensor] = {name: own[name].detach().clone() for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                own[name].copy_(value)


def forget(model: nn.Module, optimizer: Optimizer, names: Iterable[str]) -> None:
    """Drop the optimizer's state (momentum, moments) of parameters that were changed from outside."""
    if isinstance(optimizer, LBFGS):  # it keeps one history for all of them
        optimizer.state.clear()
        return
    own = dict(model.named_parameters())
    for name in names:
        optimizer.state.pop(own[name], None)
