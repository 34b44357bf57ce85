"""A floor under the recall of the class that matters: every line in which the word tunnel occurs is added for it.

gdsolver-pool up &
GDSOLVER_DATA=FOLDER python examples/constraints.py  # incomes above 50,000 dollars in Adult; without it: breast cancer

The solver is given samples that gradient descent has not seen, and a floor a little higher than what is required.
"""

import os
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from gdsolver import Objective, RecallFloor, SolverClient, Tunneller
from trainer.lab.tasks import Request, Split, load_task

folder = os.environ.get("GDSOLVER_DATA")


def breast_cancer():
    """Samples of the 20 first features, four parts; class 1 is malignant."""
    table = load_breast_cancer()
    inputs = torch.tensor(table.data[:, :20]).float()
    whole = Split((inputs - inputs.mean(dim=0)) / inputs.std(dim=0), torch.tensor(table.target == 0).long())
    return [whole[part] for part in torch.randperm(len(inputs)).split([169, 150, 125, 125])]


torch.manual_seed(0)
torch.set_num_threads(1)
adult = load_task(Request("adult", data_dir=Path(folder)), seed=0) if folder else None
parts = [adult.train, adult.selection, adult.validation, adult.test] if adult else breast_cancer()
train, held_out, validation, test = parts
floor, more, radius, epochs = (0.8, 0.06, 1.0, 10) if adult else (0.95, 0.03, 0.5, 15)

net = nn.Sequential(nn.Linear(train.inputs.shape[1], 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)


def scores(part=validation):
    """The accuracy, and the share of each class that is called right."""
    with torch.no_grad():
        right = (net(part.inputs).argmax(dim=1) == part.targets).float()
    others, found = (float(right[part.targets == number].mean()) for number in (0, 1))
    return {"accuracy": float(right.mean()), "recall_0": others, "recall_1": found}


def told(when):
    """Prints accuracy and recalls on both parts."""
    for name, part in (("validation", validation), ("test", test)):
        print(f"{name} {when}:", ", ".join(f"{score} {value:.3f}" for score, value in scores(part).items()))


def noted(event):
    """Prints what each adoption has come to."""
    if event.kind == "adopted":
        told("as adopted")


asked = {
    "constraints": [RecallFloor(1, floor + more)],  # of samples for the solver
    "require": {"recall_1": floor},  # of the scores on validation, after every adoption
}
how = {"monitor": "accuracy", "radius": radius, "time_s": 6, "samples": 4000, "on_event": noted}
how |= {"data": held_out.tensors, "objective": Objective("log_loss", l2=1e-3)}
tunnel = Tunneller(net, optimizer=optimizer, validate=scores, client=SolverClient(), **asked, **how)
for _ in range(epochs):
    for chosen in torch.randperm(len(train)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[chosen]), train.targets[chosen]).backward()
        optimizer.step()
    tunnel.step(scores())
told("before")
print(tunnel.close(polish=True, timeout=30.0))
told("after")
