"""High incomes found as often among women as among men: every line in which the word tunnel occurs is added for it.

gdsolver-pool up &
GDSOLVER_DATA=FOLDER python examples/equal_rates.py  # Adult by sex; without it: made-up samples of two groups

Batches hold each sample's group; the solver is asked for a smaller gap than what is required of new samples.
"""

import os
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdsolver import Objective, RateGap, SolverClient, Tunneller
from trainer.lab.tasks import Request, Split, load_task
from trainer.lab.tasks.known_tables import adult_sexes

folder = os.environ.get("GDSOLVER_DATA")


def made_up(count):
    """Samples of two groups, which the first input tells; class 1 is rarer in group 0."""
    group = (torch.arange(count) % 2 > 0).float()
    inputs = torch.randn(count, 10)
    inputs[:, 0] = group
    chance = torch.sigmoid(2 * inputs[:, 1:4].sum(dim=1) + 3 * group - 3)
    return Split(inputs, torch.bernoulli(chance).long()), group.long()


torch.manual_seed(0)
torch.set_num_threads(1)
names = ("train", "validation", "test")
if folder:
    task, sexes = load_task(Request("adult", data_dir=Path(folder)), seed=0), adult_sexes(0, Path(folder))
    parts = {name: (getattr(task, name), sexes[name]) for name in names}
else:
    parts = {name: made_up(count) for name, count in zip(names, (8000, 8000, 8000), strict=True)}
train, groups = parts["train"]
samples = TensorDataset(train.inputs, train.targets, groups)
loader = DataLoader(samples, batch_size=32, shuffle=True)

net = nn.Sequential(nn.Linear(train.inputs.shape[1], 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)


def scores(name="validation"):
    """The accuracy, and by how much the two groups differ in the share of class 1 that is called right."""
    part, group = parts[name]
    with torch.no_grad():
        right = (net(part.inputs).argmax(dim=1) == part.targets).float()
    rates = [float(right[(part.targets == 1) & (group == number)].mean()) for number in (0, 1)]
    return {"accuracy": float(right.mean()), "gap": abs(rates[0] - rates[1])}


def told(when):
    """Prints both on both parts."""
    for name in ("validation", "test"):
        print(f"{name} {when}:", ", ".join(f"{score} {value:.3f}" for score, value in scores(name).items()))


def noted(event):
    """Prints what each adoption has come to."""
    if event.kind == "adopted":
        told("as adopted")


asked = {
    "constraints": [RateGap(0.02, classes=1)],  # of samples for the solver
    "require": ["gap <= 0.05"],  # of the scores on validation, after every adoption
    "objective": Objective("log_loss", l2=1e-3),
}
how = {"monitor": "accuracy", "radius": 1.0, "time_s": 6, "on_event": noted, "keep": 30000, "samples": 30000}
how |= {"split": lambda batch: ((batch[0],), {}, batch[1], None, batch[2])}  # inputs, targets, no weights, groups
tunnel = Tunneller(net, optimizer=optimizer, validate=scores, client=SolverClient(), **asked, **how)
for _ in range(10):
    for inputs, targets, _ in tunnel.watch(loader):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    tunnel.step(scores())
told("before")
print(tunnel.close(polish=True, timeout=30.0))
told("after")
