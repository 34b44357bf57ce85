"""A skorch callback: batches from the net's own iterator, scores from its validation step."""

from typing import Any, Self

from skorch import NeuralNetBinaryClassifier
from skorch.callbacks import Callback
from skorch.dataset import get_len

from trainer.adapters.recording import draws_kept
from trainer.adapters.settings import Pool, Settings, step
from trainer.errors import CaptureError
from trainer.tunneller import Tunneller


class TunnelCallback(Callback):
    """Tunnels the module that a net trains: `NeuralNetClassifier(..., callbacks=[TunnelCallback()])`.

    client: a solver pool, or a function that makes one; by default what GDSOLVER_GATEWAY names, or this machine's.
        Where nets are cloned (grid search) give a function: a client itself cannot be copied.
    polish_s: how long the last tunnel may take; 0: none.
    options: of the Tunneller; a grid search may set them, as `callbacks__tunnel__radius`.

    The score is the mean loss over the validation data, so the net needs its `train_split`. What is adopted replaces
    the epoch's `valid_loss`, by which callbacks after this one go, such as a Checkpoint.
    """

    def __init__(self, client: Pool = None, polish_s: float = 60.0, **options: Any) -> None:
        self.client, self.polish_s = client, polish_s
        for name, value in options.items():
            setattr(self, name, value)

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
        task = {"task": "binary"} if isinstance(net, NeuralNetBinaryClassifier) else {}
        self.tunneller_ = self._settings.tunneller(
            net.module_, net.optimizer_, lambda: self._score(net), mode="min", **task
        )

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """See a batch in passing."""
        if training and self.tunneller_ is not None:
            self.tunneller_.observe(batch)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Take the newest score; polish after the last epoch."""
        if self.tunneller_ is None:
            return
        if self.tunneller_.closed:
            return
        self.validation_ = dataset_valid
        self.epochs_ += 1
        adopted = step(self.tunneller_, float(net.history[-1]["valid_loss"]))
        if self.epochs_ >= net.max_epochs:
            adopted = self._settings.close(self.tunneller_) or adopted
        if adopted is not None:  # later callbacks go by the score of the weights as they are now
            net.history.record("valid_loss", adopted)
            net.history.record("valid_loss_best", adopted <= min(net.history[:, "valid_loss"]))

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Tunnel once more where training ended early, and let go."""
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
