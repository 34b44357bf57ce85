"""A skorch callback: batches from the net's own iterator, scores from its validation step."""

import inspect
from enum import Enum
from typing import Any, Self

from skorch import NeuralNetBinaryClassifier
from skorch.callbacks import Callback
from skorch.dataset import get_len

from trainer.adapters.settings import Pool, Settings, copyable, let_go, step
from trainer.errors import CaptureError
from trainer.restoring.draws import loaders_kept
from trainer.scores import as_float
from trainer.tunneller import Tunneller

OURS = ("model", "optimizer", "validate", "client")
OPTIONS = tuple(name for name in inspect.signature(Tunneller).parameters if name not in OURS)
"""Of the Tunneller; each is a parameter of the callback, too."""


class Default(Enum):
    """The value of options that were not given; clones and pickled callbacks have the same one."""

    NOT_GIVEN = "not given"


class TunnelCallback(Callback):
    """Tunnels the module that a net trains: `NeuralNetClassifier(..., callbacks=[SkorchCallback()])`.

    `from gdsolver import SkorchCallback` brings it.

    client: a solver pool, or a function that makes one; by default what GDSOLVER_GATEWAY names, or this machine's.
        Where nets are cloned (grid search), copied or pickled give a function: a client itself cannot be copied.
    polish_s: how long the last tunnel may take; 0: none.
    options: of the Tunneller; a grid search may set them, as `callbacks__tunnel__radius`.

    The score is the mean loss over the validation data, so the net needs its `train_split`. What is adopted replaces
    the epoch's `valid_loss`, by which callbacks after this one go, such as a Checkpoint.
    """

    def __init__(self, client: Pool = None, polish_s: float = 60.0, **options: Any) -> None:
        if unknown := ", ".join(name for name in options if name not in OPTIONS):
            raise TypeError(f"{unknown}: no such option; there are {', '.join(OPTIONS)}")
        self.client, self.polish_s = client, polish_s
        for name in OPTIONS:
            setattr(self, name, options.get(name, Default.NOT_GIVEN))

    def __getstate__(self) -> dict[str, Any]:
        """Settings and what can be copied: a copy makes a tunneller of its own at its next fit."""
        copyable(self.client)
        return vars(self) | {name: None for name in ("tunneller_", "validation_") if name in vars(self)}

    def initialize(self) -> Self:
        """Forget earlier fits."""
        let_go(vars(self).get("tunneller_"))
        self.tunneller_: Tunneller | None = None
        self._reset()
        return self

    def _reset(self) -> None:
        self.validation_: Any = None
        self.epochs_ = 0

    @property
    def _settings(self) -> Settings:
        options = {name: getattr(self, name) for name in OPTIONS}
        given = {name: value for name, value in options.items() if value is not Default.NOT_GIVEN}
        return Settings(self.client, self.polish_s, given)

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Make the tunneller; one that an exception in an earlier fit has left behind ends."""
        let_go(self.tunneller_)
        if net.train_split is None:
            raise CaptureError("the net has no validation data, by which answers are judged; give it a `train_split`")
        if not any("valid_loss" in (name, getattr(callback, "name", None)) for name, callback in net.callbacks_):
            raise CaptureError(
                "no callback of the net records a `valid_loss`, by which answers are judged; leave out "
                "`callbacks__valid_loss=None`, and do without it in the log by `callbacks__print_log__keys_ignored`"
            )
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
        if "valid_loss" not in net.history[-1]:
            raise CaptureError(
                "the epoch has no `valid_loss`, by which answers are judged; see that `train_split` gives validation "
                "data"
            )
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
        with loaders_kept([iterator]):
            for batch in iterator:
                rows = get_len(batch[0])
                total += rows * as_float(net.validation_step(batch)["loss"])
                count += rows
        return total / max(count, 1)
