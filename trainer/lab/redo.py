"""Dead units without a solver: at a stall they are drawn anew, as ReDo does (Sokar et al. 2023)."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.events import Event
from trainer.lab.tasks import Task
from trainer.stalls.detector import StallDetector

DORMANT = 0.025
"""A unit is dormant whose mean output is at most this share of its layer's mean."""
SAMPLES = 1000


class Redo:
    """At a stall, new incoming weights for dormant units of ReLU layers, outgoing ones 0, and no optimizer state."""

    history: tuple[Event, ...] = ()

    def __init__(self, task: Task, model: nn.Module, optimizer: Optimizer, detector: StallDetector) -> None:
        self._inputs, self._model = task.train.inputs[:SAMPLES], model
        self._optimizer, self._detector = optimizer, detector

    def state_dict(self) -> dict[str, Any]:
        """How long it has waited."""
        return dict(self._detector.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on waiting."""
        self._detector.load_state_dict(state)

    def step(self, score: float) -> bool:
        """Take the newest score; True if units were drawn anew."""
        if not self._detector.update(score):
            return False
        renewed = [self._renew(*pair) for pair in hidden_layers(self._model)]
        return any(renewed)

    def close(self, polish: bool = False, timeout: float = 60.0) -> None:
        """Do nothing."""

    def _renew(self, layer: nn.Linear, behind: nn.Linear) -> bool:
        size = outputs_of(layer, self._model, self._inputs).relu().mean(dim=0)
        dormant = size <= DORMANT * size.mean()
        if not dormant.any():
            return False
        fresh = nn.Linear(layer.in_features, layer.out_features)
        with torch.no_grad():
            layer.weight[dormant] = fresh.weight[dormant]
            if layer.bias is not None:
                layer.bias[dormant] = 0.0
            behind.weight[:, dormant] = 0.0
        for parameter in (*layer.parameters(), behind.weight):
            self._optimizer.state.pop(parameter, None)
        return True


def hidden_layers(model: nn.Module) -> Iterator[tuple[nn.Linear, nn.Linear]]:
    """Linear layers with a ReLU and then another linear layer behind them, in sequential models; none in others."""
    modules = [module for module in model.children() if isinstance(model, nn.Sequential)]
    for (layer, activation), behind in zip(pairwise(modules), modules[2:], strict=False):
        if isinstance(layer, nn.Linear) and isinstance(activation, nn.ReLU) and isinstance(behind, nn.Linear):
            yield layer, behind


def outputs_of(layer: nn.Module, model: nn.Module, inputs: Tensor) -> Tensor:
    """A layer's outputs [N, h] for the model's inputs."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, given, output: seen.append(output.detach()))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    return seen[0]
