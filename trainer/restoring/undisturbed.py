"""Puts everything about a training run back that running its model or its validation may have changed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from trainer.restoring.beside import Beside
from trainer.restoring.modules import modules_of, parameters_of


@contextmanager
def undisturbed(model: nn.Module, beside: Beside | None = None) -> Iterator[None]:
    """Put module modes, gradients, requires_grad, torch's switches and all global random states back as they were.

    Parameters have no gradients meanwhile, so that a backward pass adds to none. Those that threads `beside` the pass
    may have given them stay.
    """
    others = beside or Beside()
    modules = modules_of(model)
    modes = [module.training for module in modules]
    parameters = parameters_of(modules)
    gradients = [parameter.grad for parameter in parameters]
    required = [parameter.requires_grad for parameter in parameters]
    randomness = random.getstate(), np.random.get_state(), torch.get_rng_state()
    switches = _switches()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = None
    try:
        yield
    finally:
        if _switches() != switches:
            _switch(*switches)
        if model.training != modes[0]:
            model.train(modes[0])  # an eval() of one's own, that merges weights, has a train() that undoes it
        for module, mode in zip(modules, modes, strict=True):
            if module.training is not mode:  # what is as it was need not be set, of thousands of modules
                module.training = mode
        for parameter, gradient, moves in zip(parameters, gradients, required, strict=True):
            if parameter.requires_grad != moves:
                parameter.requires_grad_(moves)
            theirs = parameter.grad is not None and others.wrote(parameter)
            if parameter.grad is not gradient and not theirs:
                parameter.grad = gradient
        random.setstate(randomness[0])
        np.random.set_state(randomness[1])
        torch.set_rng_state(randomness[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


def _switches() -> tuple[bool, torch.dtype, bool, bool, bool, bool, str | None, int]:
    """Those of torch that code in the middle of a validation may turn, and forget."""
    cudnn = torch.backends.cudnn
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        _precision(),
        torch.get_num_threads(),
    )


def _switch(
    grad: bool,
    dtype: torch.dtype,
    deterministic: bool,
    warn_only: bool,
    cudnn_deterministic: bool,
    benchmark: bool,
    precision: str | None,
    threads: int,
) -> None:
    torch.set_grad_enabled(grad)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn_deterministic, benchmark
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def _precision() -> str | None:
    """That of products of float32; None where each backend has been given its own, which torch does not tell."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
