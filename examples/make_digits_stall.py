"""Writes `digits-stall.safetensors`: the last layer of a small network on scikit-learn's digits, where it stalled.

    python examples/make_digits_stall.py

Shows how to make a snapshot by hand: what goes into the layer, the targets, and the layer itself.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from shared.objectives import Objective
from shared.snapshot import Snapshot

SAMPLES = 300
EPOCHS = 60


def main() -> None:
    """Train until the accuracy stalls, then write the last layer with a sample of the data."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    inputs, targets = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    body, head = nn.Sequential(nn.Linear(64, 12), nn.ReLU()), nn.Linear(12, 10)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.5)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(body(inputs)), targets).backward()
        optimizer.step()
    with torch.no_grad():
        features = body(inputs).numpy()
    chosen = np.random.default_rng(0).choice(len(features), SAMPLES, replace=False)
    snapshot = Snapshot(
        task="classification",
        inputs=features[chosen],
        targets=digits.target[chosen].astype(np.int64),
        weight=head.weight.detach().numpy().copy(),
        bias=head.bias.detach().numpy().copy(),
        note={"source": "scikit-learn digits", "network": "64-12-10", "objective": "ramp", "radius": 0.2},
    )
    path = Path(__file__).with_name("digits-stall.safetensors")
    path.write_bytes(snapshot.to_bytes())
    wrong = Objective("zero_one").value(snapshot, snapshot.weight, snapshot.bias)
    print(f"{path.name}: {path.stat().st_size:,} bytes, {wrong:.0f} of {SAMPLES} samples wrong")


if __name__ == "__main__":
    main()
