"""A plain PyTorch loop with tunnels: lines with the word, or with what comes from gdsolver, are added for them.

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

net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)


def error(part: TensorDataset = validation) -> float:
    """The mean squared error on one part of the data."""
    with torch.no_grad():
        return float(nn.functional.mse_loss(net(part.tensors[0]), part.tensors[1]))


tunnel = Tunneller(net, optimizer=optimizer, validate=error, mode="min", client=SolverClient(), layer="auto", time_s=1)
for _ in range(40):
    for batch, wanted in tunnel.watch(loader):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(batch), wanted).backward()
        optimizer.step()
    tunnel.step(error())
print(f"test MSE after training: {error(test):.2e}")
print(tunnel.close(polish=True, timeout=25.0))
print(f"test MSE after the last tunnel: {error(test):.2e}")
