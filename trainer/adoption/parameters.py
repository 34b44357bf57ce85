"""Reads and writes single parameters of a live model by name: all that a tunnel ever copies of it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from trainer.adoption.begun import begun, overwrite
from trainer.model.blocks import parameters_by_name
from trainer.model.live import outside_inference_mode, without_autocast_cache, written


def read(model: nn.Module, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Copies of the parameters that the model has under these names, as float32 arrays."""
    own = parameters_by_name(model)
    return {name: own[name].detach().to("cpu", torch.float32, copy=True).numpy() for name in names if name in own}


def write(model: nn.Module, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Write values into the model's own tensors, in place, in their own dtype and on their device.

    Unnoticed by autograd: a loop may be between its forward and its backward pass.
    """
    own = parameters_by_name(model)
    for name, value in _tensors(own, values).items():
        own[name].data.copy_(value)


@contextmanager
def tried(model: nn.Module, values: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
    """These values for a moment; bit by bit as before afterwards, whatever happens, and unnoticed by autograd."""
    with without_autocast_cache(), written(model, _tensors(parameters_by_name(model), values)):
        yield


def _tensors(own: Mapping[str, Tensor], values: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    return {n: torch.from_numpy(np.ascontiguousarray(array)).reshape(own[n].shape) for n, array in values.items()}


@outside_inference_mode()
def forget(model: nn.Module, optimizer: Optimizer, names: Iterable[str]) -> None:
    """Have the optimizer's state (momentum, moments) of parameters that were changed from outside begin anew."""
    if isinstance(optimizer, LBFGS):  # it keeps one history for all of them
        optimizer.state.clear()
        return
    own = parameters_by_name(model)
    for name in names:
        if state := optimizer.state.get(own[name]):
            fresh = begun(optimizer, own[name])
            if fresh is None:
                optimizer.state.pop(own[name])
            else:
                overwrite(state, fresh)
