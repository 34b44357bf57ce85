"""Runs the user's own scoring in the middle of training so that nothing about the run shows that it happened."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

Score = float | Mapping[str, float]


def read_score(score: object, monitor: str | None) -> float:
    """One number from what a validation returned: the number, or entry `monitor` of a dict.

    Raises ValueError if there is no such entry, or several and no `monitor`.
    """
    if not isinstance(score, Mapping):
        return float(score)  # type: ignore[arg-type]
    if monitor is None and len(score) == 1:
        return float(next(iter(score.values())))
    if monitor is None or monitor not in score:
        raise ValueError(f"monitor is {monitor!r}; choose one of the scores {sorted(map(str, score))}")
    return float(score[monitor])


def copy_state(model: nn.Module, device: str | None = None) -> dict[str, Tensor]:
    """A copy of all parameters and persistent buffers, on `device` or where they are."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return {name: value.detach().to(device or value.device, copy=True) for name, value in state.items()}


def write_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write values into the model's own tensors, in place and bit by bit."""
    own = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


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
        for module, mode in modes:
            module.training = mode
        for parameter, gradient, required in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        random.setstate(randomness[0])
        np.random.set_state(randomness[1])
        torch.set_rng_state(randomness[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


class Validator:
    """The user's `validate()`, guarded and timed: `seconds` counts what it took in all."""

    def __init__(self, model: nn.Module, validate: Callable[[], object], monitor: str | None) -> None:
        self._model, self._validate, self._monitor = model, validate, monitor
        self.seconds = 0.0

    def score(self) -> float:
        """Score the model as it is."""
        with undisturbed(self._model):
            begun = time.perf_counter()
            try:
                return read_score(self._validate(), self._monitor)
            finally:
                self.seconds += time.perf_counter() - begun

    def score_with(self, state: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> float:
        """Score the model with `state` written in, and put `original` (its whole state) back, whatever happens."""
        try:
            write_state(self._model, state)
            return self.score()
        finally:
            write_state(self._model, original)
