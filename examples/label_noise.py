"""Three of ten labels are wrong: where a tunnel through the last layer pays.

GD fits wrong labels, too, because its loss grows without bound where it is wrong. The solver's `ramp` stops growing: it
can afford to give up on a sample. Every line in which the word tunnel occurs is added for that.

    gdsolver-pool up &
    python examples/label_noise.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdsolver import SolverClient, Tunneller

torch.manual_seed(0)
torch.set_num_threads(1)
images, digits = load_digits(return_X_y=True)
order = torch.randperm(len(images))
images, digits = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(digits)[order]
false = torch.rand(len(digits)) < 0.3
labels = torch.where(false, (digits + torch.randint(1, 10, digits.shape)) % 10, digits)
loader = DataLoader(TensorDataset(images[:900], labels[:900]), batch_size=30, shuffle=True)

model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)


def accuracy(given: torch.Tensor = labels, part: slice = slice(900, 1300)) -> float:
    """The share of right answers: on validation data, by the labels that we were given, false ones included."""
    with torch.no_grad():
        return float((model(images[part]).argmax(dim=1) == given[part]).float().mean())


tunnel = Tunneller(model, optimizer=optimizer, validate=accuracy, mode="max", client=SolverClient(), time_s=6.0)
for _ in range(80):
    for batch, wanted in tunnel.watch(loader):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), wanted).backward()
        optimizer.step()
test = slice(1300, None)
print(
    f"after training: {accuracy():.3f} of the validation labels, {accuracy(digits, test):.3f} of the true test labels"
)
print(tunnel.close(polish=True, timeout=15.0))
print(
    f"after a tunnel: {accuracy():.3f} of the validation labels, {accuracy(digits, test):.3f} of the true test labels"
)
