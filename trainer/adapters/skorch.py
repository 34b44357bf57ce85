"""A skorch callback: batches from the net's own iterator, scores from its validation step."""

from dataclasses import replace
from typing import Any, Self

import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.dataset import get_len
from torch import Tensor, nn

from trainer.adapters.recording import draws_kept
from trainer.adapters.settings import Pool, Settings
from trainer.errors import CaptureError
from trainer.stalls.layers import AUTO
from trainer.tunneller import Tunneller


class LogProbabilities(nn.Module):
    """A module that puts out probabilities, as skorch has it, seen as one that puts out their logarithms."""

    def __init__(self, probabilities: nn.Module) -> None:
        super().__init__()
        self.probabilities = probabilities

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The logarithms [N, K]."""
        output = self.probabilities(*args, **kwargs)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return torch.log(found.clamp_min(torch.finfo(found.dtype).tiny))


def _gives_probabilities(net: Any) -> bool:
    """Whether skorch itself takes the logarithm of what the module puts out, before the loss."""
    return isinstance(net, NeuralNetClassifier) and isinstance(net.criterion_, nn.NLLLoss)


class TunnelCallback(Callback):
    """Tunnels the module that a net trains: `NeuralNetClassifier(..., callbacks=[TunnelCallback()])`.

    client: a solver pool, or a function that makes one; by default what GDSOLVER_GATEWAY names, or this machine's. Where
        nets are cloned (grid search) give a function: a client itself cannot be copied.
    polish_s: how long the last tunnel may take; 0: none.
    options: of the Tunneller; a grid search may set them, as `callbacks__tunnel__radius`.

    The score is the mean loss over the validation data, so the net needs its `train_split`.
    """

    def __init__(self, client: Pool = None, polish_s: float = 60.0, **options: Any) -> None:
        self.client, self.polish_s = client, polish_s
        vars(self).update(options)

    def initialize(self) -> Self:
        """Forget earlier fits."""
        self.tunneller_: Tunneller | None = None
        self._reset()
        return self

    def _reset(self) -> None:
        self.validation_: Any = None
        self.epochs_ = 0

    @property
    def _settings(self) -> Settings:
        options = {name: vars(self)[name] for name in self._get_param_names() if name not in ("client", "polish_s")}
        return Settings(self.client, self.polish_s, options)

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Make the tunneller."""
        if net.train_split is None:
            raise CaptureError("the net has no validation data, by which answers are judged; give it a `train_split`")
        self._reset()
        model = LogProbabilities(net.module_) if _gives_probabilities(net) else net.module_
        settings = self._settings
        if isinstance(layer := settings.options.get("layer"), str) and model is not net.module_ and layer != AUTO:
            settings = replace(settings, options={**settings.options, "layer": net.module_.get_submodule(layer)})
        task = {"task": "binary"} if isinstance(net, NeuralNetBinaryClassifier) else {}
        self.tunneller_ = settings.tunneller(model, net.optimizer_, lambda: self._score(net), mode="min", **task)

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """See a batch in passing."""
        if training and self.tunneller_ is not None:
            self.tunneller_.observe(batch)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Take the newest score; polish after the last epoch."""
        if self.tunneller_ is None:
            return
        self.validation_ = dataset_valid
        self.tunneller_.step(float(net.history[-1]["valid_loss"]))

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Tunnel once more, and let go."""
        if self.tunneller_ is not None:
            self._settings.close(self.tunneller_, polish=self.validation_ is not None)
            self.validation_ = None

    def _score(self, net: Any) -> float:
        """The mean loss over the validation data, as skorch computes it."""
        total, count = 0.0, 0
        iterator = net.get_iterator(self.validation_, training=False)
        with draws_kept([iterator]):
            for batch in iterator:
                rows = get_len(batch[0])
                total += rows * float(net.validation_step(batch)["loss"])
                count += rows
        return total / max(count, 1)
