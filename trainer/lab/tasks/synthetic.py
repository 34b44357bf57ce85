"""The paper's four synthetic regressions: three inputs in [0, 1], two outputs, and a 3-2-2 ReLU network.

As in the published code of Ashok et al. (IJCAI 2022), 1,000 samples are for training and 1,000 for testing, here with
separate selection and validation samples besides. The network is small enough that GD often ends with a dead ReLU, so
the policy chooses the layer; the paper tunnels the last one only. A run goes on until it has stalled for good.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.lab.tasks.base import Defaults, Split, Task, Tunnel
from trainer.stalls.policy import AUTO

INPUTS, HIDDEN, OUTPUTS = 3, 2, 2
TRAIN, OTHER, TEST = 1000, 500, 1000


def _polynomial(x: Tensor) -> Tensor:
    return 3 * x**4 + 6 * x**3 + 2 * x**2 + x + 9


def _formula(x: Tensor) -> Tensor:
    return 2 * torch.exp(x) + 3 * torch.sin(x) * x**5


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "affine": lambda x: 3 * x + 4,
    "polynomial": _polynomial,
    "formula": _formula,
}
"""Applied to the first two inputs; the third is a distraction."""


def synthetic(name: str, seed: int) -> Task:
    """One of the regressions `identity`, `affine`, `polynomial` and `formula`, with samples drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Split:
        inputs = torch.rand(count, INPUTS, generator=generator)
        return Split(inputs, FUNCTIONS[name](inputs[:, :OUTPUTS]))

    return Task(
        name=name,
        kind="regression",
        train=draw(TRAIN),
        selection=draw(OTHER),
        validation=draw(OTHER),
        test=draw(TEST),
        model=lambda: nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUTS)),
        defaults=Defaults(
            epochs=3000,
            until_stalled=100,
            batch_size=32,
            sgd_lr=0.05,
            adam_lr=1e-2,
            patience=5,
            min_delta=1e-2,
            delta_mode="rel",
        ),
        tunnel=Tunnel("mse", layer=AUTO, time_s=1.0, samples=TRAIN, first_after=1),
    )
