"""A floor under the recall of one class: every line in which the word tunnel occurs is added for it.

gdsolver-pool up &
python examples/constraints.py
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from gdsolver import SolverClient, Tunneller

torch.manual_seed(2)
torch.set_num_threads(1)
table = load_breast_cancer()
inputs, malignant = torch.as_tensor(table.data[:, :20]).float(), torch.as_tensor(table.target == 0).long()
inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0)
train, validation, test = torch.randperm(len(inputs)).split([269, 150, 150])

net = nn.Linear(20, 2)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)


def scores(part: torch.Tensor = validation) -> dict[str, float]:
    """The accuracy, and the share of malignant cases that are found."""
    with torch.no_grad():
        called = net(inputs[part]).argmax(dim=1)
    found = called[malignant[part] == 1].float().mean()
    return {"accuracy": float((called == malignant[part]).float().mean()), "recall": float(found)}


floor = {"constraints": [{"type": "recall_floor", "value": 1.0, "classes": [1]}], "require": ["recall >= 0.94"]}
data = (inputs[train], malignant[train])
how = {"monitor": "accuracy", "radius": 0.3, "time_s": 4, "patience": 50}
tunnel = Tunneller(net, optimizer=optimizer, validate=scores, data=data, client=SolverClient(), **floor, **how)
for _ in range(15):
    for chosen in train[torch.randperm(len(train))].split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[chosen]), malignant[chosen]).backward()
        optimizer.step()
    tunnel.step(scores())
print("after training:       ", scores(test))
print(tunnel.close(polish=True, timeout=20.0))
print("after the last tunnel:", scores(test))
