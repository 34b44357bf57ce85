"""A skorch callback: batches from the net's own iterator, scores from its validation step."""

from typing import Any

import torch
from skorch.callbacks import Callback

from trainer.errors import CaptureError
from trainer.pool.client import SolverClient
from trainer.tunneller import Tunneller


class TunnelCallback(Callback):
    """Tunnels the module that a NeuralNet trains: `NeuralNet(..., callbacks=[TunnelCallback()])`.

    The score is the mean validation loss; the net needs a `train_split`.

    client: a solver pool; by default the one that GDSOLVER_GATEWAY names, or this machine's.
    polish_s: how long the last tunnel may take; 0: none.
    options: of the Tunneller.
    """

    def __init__(
        self, client: SolverClient | None = None, polish_s: float = 60.0, options: dict[str, Any] | None = None
    ):
        self.client, self.polish_s, self.options = client, polish_s, options
        self.tunneller_: Tunneller | None = None

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Make the tunneller."""
        self._validation: Any = None
        self.tunneller_ = Tunneller(
            net.module_,
            optimizer=net.optimizer_,
            validate=lambda: self._score(net),
            mode="min",
            client=self.client or SolverClient(),
            **(self.options or {}),
        )

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """See a batch in passing."""
        if training and self.tunneller_ is not None:
            self.tunneller_.observe(batch)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Take the newest score."""
        if self.tunneller_ is None:
            return
        if dataset_valid is None:
            raise CaptureError("the net has no validation data; give it a `train_split`, which tunnels are judged on")
        self._validation = dataset_valid
        self.tunneller_.step(float(net.history[-1]["valid_loss"]))

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Tunnel once more, and let go."""
        if self.tunneller_ is not None:
            self.tunneller_.close(
                polish=self.polish_s > 0 and self._validation is not None, timeout=self.polish_s or 5.0
            )

    def _score(self, net: Any) -> float:
        """The mean loss over the validation data, as skorch computes it."""
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in net.get_iterator(self._validation, training=False):
                rows = len(batch[1])
                total += rows * float(net.validation_step(batch)["loss"])
                count += rows
        return total / max(count, 1)
