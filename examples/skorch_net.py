"""A skorch net with tunnels: every line with the word, or with what comes from gdsolver, is added for them.

gdsolver-pool up &
python examples/skorch_net.py
"""

import numpy as np
import torch
from skorch import NeuralNetRegressor
from torch import nn

from gdsolver import SkorchCallback

torch.set_num_threads(1)
torch.manual_seed(0)
inputs = np.random.default_rng(0).random((700, 3), dtype=np.float32)
targets = np.stack([np.abs(inputs[:, 0] - inputs[:, 1]), inputs[:, 1:].max(axis=1)], axis=1)

net = NeuralNetRegressor(
    nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
    optimizer=torch.optim.Adam,
    lr=1e-2,
    max_epochs=30,
    batch_size=20,
    iterator_train__shuffle=True,
    verbose=0,
    callbacks=[SkorchCallback(layer="auto", time_s=0.5, polish_s=10.0)],
)
net.fit(inputs[:500], targets[:500])
print(f"test MSE: {float(np.mean((net.predict(inputs[500:]) - targets[500:]) ** 2)):.2e}")
