"""Small models of the kinds that people train, and the shortest way to look at one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.model.blocks import linear_layers
from trainer.samples.reservoir import Reservoir, Rows
from trainer.snapshots.capture import Look, Plan, look


class Made(nn.Module):
    """A model of some parts and a function that runs them: `forward(parts, *inputs)`."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(self, *args, **kwargs)


def used(model: nn.Module) -> nn.Module:
    """The model with batch normalisations as training leaves them."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
            nn.init.normal_(module.weight, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return model


def kept(inputs: Tensor | tuple[Tensor, ...], targets: Tensor, weights: Tensor | None = None) -> Rows:
    """All of it, as a tunneller would have kept it."""
    reservoir = Reservoir.of_tensors(inputs, targets, weights)
    return reservoir.rows(len(targets), np.random.default_rng(0))


def seen(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    plan: Plan | None = None,
    weights: Tensor | None = None,
    **options: Any,
) -> Look:
    """A look at every linear layer, with boxes of a quarter of the mean weight."""
    settings: dict[str, Any] = {
        "layers": list(linear_layers(model)),
        "radius_of": lambda _, mean: 0.25 * mean,
        "budget_s": 30.0,
        "generator": np.random.default_rng(0),
    }
    return look(model, kept(inputs, targets, weights), plan or Plan(), **(settings | options))


def state(model: nn.Module) -> Mapping[str, Tensor]:
    """A copy of everything that a model holds."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def classes(count: int = 300, width: int = 6, kinds: int = 4) -> tuple[Tensor, Tensor]:
    """Random inputs, and classes that have nothing to do with them."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, width, generator=generator), torch.arange(count) % kinds
