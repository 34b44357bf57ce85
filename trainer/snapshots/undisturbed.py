"""Puts everything about a training run back that running its model or its validation may have changed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put module modes, gradients, requires_grad and all global random states back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    randomness = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if model.training != modes[0][1]:
            model.train(modes[0][1])  # an eval() of one's own, that merges weights, has a train() that undoes it
        for module, mode in modes:
            module.training = mode
        for parameter, gradient, required in gradients:
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)
            parameter.grad = gradient
        random.setstate(randomness[0])
        np.random.set_state(randomness[1])
        torch.set_rng_state(randomness[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)
