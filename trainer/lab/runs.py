"""The record of one training run, as it is printed, plotted and written to JSON."""

import hashlib
from dataclasses import dataclass

from torch import nn

from trainer.events import Event, Summary


@dataclass(frozen=True)
class Epoch:
    """One epoch: when it began and ended (seconds since the run began), and the selection metric after it."""

    number: int
    begun_s: float
    ended_s: float
    score: float
    adopted: bool


@dataclass(frozen=True)
class Run:
    """One run of one method with one seed.

    `selection`, `validation` and `test` are the metric of the reported weights on those parts; `polished` says that the
    last tunnel is in these weights, `resumed_after` how many epochs were done before a checkpoint. `seconds` is the
    whole run with all waiting, `gd_seconds` GD alone. Event times count from the run's start.
    """

    task: str
    method: str
    seed: int
    metric: str
    selection: float
    validation: float
    test: float
    seconds: float
    gd_seconds: float
    gd_steps: int
    epochs: tuple[Epoch, ...]
    weights_sha256: str
    events: tuple[Event, ...] = ()
    summary: Summary | None = None
    polished: bool = False
    interrupted: bool = False
    target_reached: bool = False
    resumed_after: int = 0

    @property
    def adopted(self) -> int:
        """How many answers were adopted."""
        return self.summary.adopted if self.summary else 0

    @property
    def reported_after_adoption(self) -> bool:
        """Whether an adopted answer is in the reported weights: those of the best epoch, and the last tunnel's."""
        if self.polished or not self.epochs:
            return self.polished
        at = [epoch.number for epoch in self.epochs if epoch.adopted]
        sign = 1.0 if self.metric == "accuracy" else -1.0
        best = max(self.epochs, key=lambda epoch: (sign * epoch.score, -epoch.number))
        return any(number <= best.number for number in at)

    @property
    def pool_lost(self) -> bool:
        """Whether the pool could not be reached in the end."""
        return bool(self.summary and self.summary.pool_lost)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, so that two runs can be compared bit for bit."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
