"""A floor under every class's recall, on a long-tailed Fashion-MNIST: lines with the word tunnel are added for it.

gdsolver-pool up &
GDSOLVER_DATA=FOLDER python examples/long_tail.py    # without GDSOLVER_DATA: scikit-learn's digits

The solver is given samples that gradient descent has not seen: of its own a network gets nearly all right.
"""

import os
from pathlib import Path

import torch
from torch import nn

from gdsolver import Objective, RecallFloor, SolverClient, Tunneller
from trainer.lab.tasks import Request, load_task

folder = os.environ.get("GDSOLVER_DATA")
name, ratio, floor, epochs = ("fashion-mnist", 100, 0.6, 10) if folder else ("digits", 10, 0.6, 60)
task = load_task(Request(name, long_tailed=ratio, data_dir=Path(folder) if folder else None), seed=0)
train, held_out, validation = task.train, task.selection, task.validation

torch.manual_seed(0)
torch.set_num_threads(1)
width = train.inputs[0].numel()
net = nn.Sequential(nn.Flatten(), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)


def recalls(part):
    """The share of each class that is called right [10]."""
    with torch.no_grad():
        right = net(part.inputs).argmax(dim=1) == part.targets
    return torch.stack([right[part.targets == number].float().mean() for number in range(10)])


def scores():
    """What an answer is judged by: the accuracy on all classes alike, and the worst recall."""
    found = recalls(validation)
    return {"accuracy": float(found.mean()), "worst": float(found.min())}


def told(when):
    """Prints accuracy and recalls on both parts."""
    for part in ("validation", "test"):
        found = recalls(getattr(task, part))
        print(f"{part} {when}: accuracy {found.mean():.3f}, recalls {' '.join(f'{value:.2f}' for value in found)}")


def noted(event):
    """Prints what each adoption has come to."""
    if event.kind == "adopted":
        told("as adopted")


asked = {"constraints": [RecallFloor(value=floor + 0.1)], "require": {"worst": floor}}
how = {"monitor": "accuracy", "radius": 1.0, "time_s": 15, "samples": 3000, "objective": Objective("log_loss", l2=1e-2)}
how |= {"data": held_out.tensors, "on_event": noted}
tunnel = Tunneller(net, optimizer=optimizer, validate=scores, client=SolverClient(), **asked, **how)
for _ in range(epochs):
    for chosen in torch.randperm(len(train)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[chosen]), train.targets[chosen]).backward()
        optimizer.step()
    tunnel.step(scores())
told("before")
print(tunnel.close(polish=True, timeout=60.0))
told("after")
