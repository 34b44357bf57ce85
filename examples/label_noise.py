"""Three of ten labels are wrong: where a tunnel through the last layer pays.

GD fits wrong labels, too, because its loss grows without bound where it is wrong. The solver's `ramp` stops growing: it
can afford to give up on a sample, and names those that it gives up on. Every line in which the word tunnel occurs is
added for that.

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
loader = DataLoader(TensorDataset(images[:900], labels[:900], torch.arange(900)), batch_size=30, shuffle=True)

model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)


def accuracy(given: torch.Tensor = labels, part: slice = slice(900, 1300)) -> float:
    """The share of right answers: on validation data, by the labels that we were given, false ones included."""
    with torch.no_grad():
        return float((model(images[part]).argmax(dim=1) == given[part]).float().mean())


def told(when, suspects=()):
    """Prints how good the model is, and how many of the suspects do have a false label."""
    true = accuracy(digits, slice(1300, None))
    print(f"{when}: {accuracy():.3f} of the validation labels, {true:.3f} of the true test labels")
    if suspects:
        found = int(false[[one.index for one in suspects]].sum())
        print(f"{found} of {len(suspects)} suspects have a false label ({false[:900].float().mean():.0%} of all have)")


tunnel = Tunneller(model, optimizer=optimizer, validate=accuracy, mode="max", client=SolverClient(), time_s=6.0)
for _ in range(80):
    for batch, wanted, number in loader:
        tunnel.observe(batch, wanted, index=number)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), wanted).backward()
        optimizer.step()
told("after training")
print(tunnel.close(polish=True, timeout=15.0))
told("at the end", tunnel.suspects())
