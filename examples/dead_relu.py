"""A network that gradient descent cannot train, and the tunnel that frees it.

    python examples/dead_relu.py [--gateway URL] [--plot dead_relu.png]

Run it cell by cell, or as a whole. Without --gateway it starts a solver pool of its own.
"""

# %% A regression, and a network whose hidden units are all dead
import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from torch import nn

from gdsolver import SolverClient, Tunneller

mpl.use("agg")
from matplotlib import pyplot as plt

EPOCHS = 60
generator = torch.Generator().manual_seed(0)
inputs = torch.rand(600, 3, generator=generator)
targets = torch.stack([(inputs[:, 0] - inputs[:, 1]).abs(), inputs[:, 2]], dim=1)
train, validation, test = [(inputs[part], targets[part]) for part in torch.arange(600).split([400, 100, 100])]


def network(*, dead: bool) -> nn.Sequential:
    """3-6-2 with ReLUs; with biases of -10 no unit is active anywhere, so none has a gradient."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    if dead:
        nn.init.constant_(model[0].bias, -10.0)
    return model


# %% Plain gradient descent; `after_epoch` is where a tunneller comes in
def error(model: nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The mean squared error of a model on one part of the data."""
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(part[0]), part[1]))


def descend(model, optimizer, after_epoch=lambda score: None):
    """Train, and return the validation error after each epoch."""
    shuffle, curve = torch.Generator().manual_seed(2), []
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(train[0]), generator=shuffle).split(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
        curve.append(error(model, validation))
        after_epoch(curve[-1])
    return curve


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Adam, for all three."""
    return torch.optim.Adam(model.parameters(), lr=1e-2)


# %% The same network three times: healthy, dead, and dead with tunnels
def main() -> None:
    """Train all three, and draw their curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", help="a pool's address; without it, one is started")
    parser.add_argument("--plot", type=Path, default=Path("dead_relu.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    healthy, dead, freed = network(dead=False), network(dead=True), network(dead=True)
    curves = {"healthy start, Adam": descend(healthy, adam(healthy)), "dead start, Adam": descend(dead, adam(dead))}

    optimizer = adam(freed)
    tunneller = Tunneller(
        freed,
        optimizer=optimizer,
        data=train,
        validate=lambda: error(freed, validation),
        mode="min",
        client=SolverClient(arguments.gateway) if arguments.gateway else "local",
        layer="auto",  # the policy sees the dead units, and lets their biases rise
        objective="mse",
        radius=2.0,
        min_delta=0.01,
        delta_mode="rel",  # an answer has to be better by one per cent
        time_s=1.0,
        samples=100,
        sync=True,  # a small example need not overlap anything
    )
    curves["dead start, Adam and tunnels"] = descend(freed, optimizer, tunneller.step)
    tunneller.close(polish=True)

    for event in tunneller.history:
        if event.kind in ("submitted", "adopted", "rejected"):
            scores = event.detail if event.before is None else f"{event.before:.3g} -> {event.after:.3g}"
            print(f"epoch {event.step:3d}  {event.kind:9s} {scores}")
    for name, model in (("healthy", healthy), ("dead", dead), ("freed", freed)):
        print(f"{name:8s} test MSE {error(model, test):.2e}")

    for name, curve in curves.items():
        plt.semilogy(range(1, EPOCHS + 1), curve, label=name)
    plt.xlabel("epoch")
    plt.ylabel("validation MSE")
    plt.legend()
    plt.savefig(arguments.plot, dpi=90)
    print(f"written: {arguments.plot}")


if __name__ == "__main__":
    main()
