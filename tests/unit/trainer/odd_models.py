"""Networks that are not what they seem, and layers behind which something odd happens; inputs [N, 6], 4 classes."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.unit.trainer.models import Made

Between = Callable[[Any, Tensor], Tensor]


def made(forward: Between, **more: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A network of layers `a` (6 to 8 units) and `b` (to 4 classes), and a function that uses them."""
    return lambda: Made(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 4), **{name: make() for name, make in more.items()})


def between(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A function between the two layers."""
    return made(lambda net, x: net.b(function(net.a(x))))


def one_sided(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """The same where all pre-activations are between 2 and 4."""

    def make() -> nn.Module:
        net = Made(lambda net, x: net.b(function(net.a(0.1 * x))), a=nn.Linear(6, 8), b=nn.Linear(8, 4))
        with torch.no_grad():
            net.a.bias.add_(3.0)  # type: ignore[union-attr, operator]
        return net

    return make


class Carrying(nn.Module):
    """A recurrent cell whose state goes from batch to batch in an attribute; it counts, logs and draws by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 8), nn.Linear(8, 4)
        self.state, self.memory = torch.zeros(1, 8), torch.zeros(8)
        self.calls, self.log, self.latest = 0, list[float](), dict[str, Tensor]()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.cell(inputs, self.state.mean(dim=0).expand(len(inputs), 8))
        self.state, self.calls = state.detach(), self.calls + 1
        self.memory.mul_(0.9).add_(self.state.mean(dim=0))
        self.log.append(float(self.memory.sum()))
        self.latest["state"] = self.state
        return self.head(state + self.memory + 0.01 * torch.rand(8, generator=self.generator))


class Merging(nn.Module):
    """An adapter in the manner of loralib: eval() merges it into the weight, train() takes it out again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(0.3 * torch.randn(8, 2))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.a.weight.add_((-1.0 if mode else 1.0) * self.up @ self.down)
            self.merged = not mode
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.a(inputs)
        return self.b(F.relu(hidden if self.merged else hidden + inputs @ self.down.T @ self.up.T))


def _hooked() -> nn.Module:
    net = between(F.relu)()
    net.a.register_forward_hook(lambda module, inputs, output: 2 * output)  # type: ignore[union-attr, operator]
    return net


def _experts(net: Any, x: Tensor) -> Tensor:
    first = x[:, 0] > 0
    return net.b(F.relu(torch.zeros(len(x), 8).index_put((first,), net.a(x[first]))))  # type: ignore[no-any-return]


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "relu6 that never reaches 6": one_sided(F.relu6),
    "kink that is never reached": one_sided(lambda h: torch.where(h > 5, 5 + 0.1 * (h - 5), F.relu(h))),
    "absolute value of positive ones": one_sided(torch.abs),
    "clamp far away": between(lambda h: h.clamp(0, 20)),
    "sorted units": between(lambda h: h.sort(dim=1).values),
    "signs": between(torch.sign),
    "half of the units": between(lambda h: torch.cat([F.relu(h[:, :4]), h[:, 4:]], dim=1)),
    "branch by the sample": made(lambda net, x: net.b(torch.where(x[:, :1] > 2, net.a(x).tanh(), net.a(x).relu()))),
    "dropout that never stops": between(lambda h: F.dropout(h.relu(), 0.3)),
    "numpy's noise": made(lambda net, x: net.b(net.a(x)) + torch.tensor(np.random.randn(len(x), 4), dtype=x.dtype)),
    "python's noise": between(lambda h: h * (1 + random.random())),
    "weight used twice": made(lambda net, x: net.b(net.a(x).relu()) + F.linear(x @ net.a.weight.T, net.b.weight)),
    "weight without its layer": made(lambda net, x: F.linear(F.linear(x, net.a.weight).relu(), net.b.weight)),
    "weight's size": made(lambda net, x: net.b(net.a(x).relu()) * net.b.weight.norm()),
    "cosine": made(lambda net, x: F.linear(F.normalize(net.a(x)), F.normalize(net.b.weight))),
    "soft cap": made(lambda net, x: 3 * torch.tanh(net.b(net.a(x).relu()) / 3)),
    "cut outputs": made(lambda net, x: net.b(net.a(x).relu()).clamp(-15, 15)),
    "infinite outputs": made(lambda net, x: net.b(net.a(x).relu()) * 1e39),
    "some not a number": made(lambda net, x: net.b(net.a(x).relu()).where(x[:, :1] < 1, torch.tensor(torch.nan))),
    "experts": made(_experts),
    "hooked": _hooked,
    "state": Carrying,
    "merging": Merging,
    "normalised over a sample": made(
        lambda net, x: net.b(net.norm(net.a(x)[:, None])[:, 0]), norm=lambda: nn.InstanceNorm1d(1)
    ),
}
"""Networks in which the first layer has no chain that a job could hold, though many look as if it had."""

FINE: dict[str, Callable[[], nn.Module]] = {
    "statistics of the batch before": lambda: nn.Sequential(
        nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
    ),
    "in chunks": made(lambda net, x: net.b(torch.cat([part.tanh() for part in net.a(x).split(20)]))),
    "two dtypes": made(lambda net, x: net.b(net.a(x).relu()).double()),
    "more in evaluation": made(lambda net, x: net.b(net.a(x).relu()) if net.training else (net.b(net.a(x).relu()), x)),
    "softmax in evaluation": made(
        lambda net, x: net.b(net.a(x).relu()) if net.training else net.b(net.a(x).relu()).softmax(dim=1)
    ),
    "two heads": made(lambda net, x: net.b(net.a(x).relu()) + net.c(x), c=lambda: nn.Linear(6, 4)),
}
"""Networks in which it has one."""
