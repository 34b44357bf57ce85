"""Looks at small models on data in memory."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from trainer.samples.reservoir import Reservoir
from trainer.snapshots.capture import Look, Plan, look


def seen(model: nn.Module, inputs: Tensor, targets: Tensor) -> Look:
    """A look at every layer of a model."""
    rows = Reservoir.of_tensors(inputs, targets).rows(500, np.random.default_rng(0))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    plan: dict[str, Any] = {"radius_of": lambda _, size: 0.25 * size, "budget_s": 1e9, "layers": names}
    return look(model, rows, Plan(), generator=np.random.default_rng(0), **plan)
