"""A plain PyTorch loop with tunnels: every line in which the word occurs is added for them, all others are as before.

gdsolver-pool up &
python examples/plain_loop.py
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdsolver import SolverClient, Tunneller

torch.manual_seed(0)
torch.set_num_threads(1)
inputs = torch.rand(600, 3)
targets = torch.stack([(inputs[:, 0] - inputs[:, 1]).abs(), inputs[:, 1:].amax(dim=1)], dim=1)
train, validation, test = [
    TensorDataset(inputs[part], targets[part]) for part in torch.arange(600).split([400, 100, 100])
]
loader = DataLoader(train, batch_size=20, shuffle=True)

model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


def error(part: TensorDataset = validation) -> float:
    """The mean squared error on one part of the data."""
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(part.tensors[0]), part.tensors[1]))


tunneller = Tunneller(model, optimizer=optimizer, validate=error, mode="min", client=SolverClient(), layer="auto")
for _ in range(40):
    for batch, wanted in tunneller.watch(loader):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), wanted).backward()
        optimizer.step()
    tunneller.step(error())
print(f"test MSE after training: {error(test):.2e}")
print(tunneller.close(polish=True, timeout=12.0))
print(f"test MSE after the last tunnel: {error(test):.2e}")
