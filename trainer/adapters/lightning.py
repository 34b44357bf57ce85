"""A Lightning callback: batches from the training loop, scores from the user's own `validation_step`."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from trainer.adapters.means import Means
from trainer.errors import CaptureError
from trainer.pool.client import SolverClient
from trainer.tunneller import Tunneller


class TunnelCallback(pl.Callback):
    """Tunnels the module that is fitted: `Trainer(callbacks=[TunnelCallback(monitor="val_loss")])`.

    monitor: the name under which `validation_step` logs the score that counts; `mode` may be left out where the name
        says it (loss, accuracy).
    client: a solver pool; by default the one that GDSOLVER_GATEWAY names, or this machine's.
    polish_s: how long the last tunnel may take, before the last checkpoint; 0: none.
    options: of the Tunneller.

    The score is computed by the module's own `validation_step` over the validation data, in evaluation mode, without
    hooks of other callbacks and without a log entry. Sanity checks, `fast_dev_run` and learning rate finders are left
    alone.
    """

    def __init__(
        self, *, monitor: str, client: SolverClient | None = None, polish_s: float = 60.0, **options: Any
    ) -> None:
        self._monitor, self._client, self._polish_s, self._options = monitor, client, polish_s, options
        self._state: Mapping[str, Any] | None = None
        self.tunneller: Tunneller | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the tunneller, as soon as model and optimizer are where they will be trained."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if len(trainer.optimizers) != 1:
            raise CaptureError(f"{len(trainer.optimizers)} optimizers are at work; a tunneller follows exactly one")
        self.tunneller = Tunneller(
            pl_module,
            optimizer=trainer.optimizers[0],
            validate=lambda: self._validate(trainer, pl_module),
            client=self._client or SolverClient(),
            monitor=self._monitor,
            **self._options,
        )
        if self._state is not None:
            self.tunneller.load_state_dict(self._state)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See a batch in passing."""
        if self.tunneller is not None:
            self.tunneller.observe(batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the newest score; in the last epoch polish, so that the last checkpoint has it."""
        if self.tunneller is None or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self._monitor)
        if score is None:
            raise CaptureError(
                f"validation_step logs no {self._monitor!r}; it logs: {', '.join(trainer.callback_metrics)}"
            )
        self.tunneller.step({self._monitor: float(score)})
        if _is_last(trainer):
            self._close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Polish where nobody knew that the end was near, and bring the last checkpoint up to date."""
        if self.tunneller is None or self.tunneller.closed:
            return
        before = self.tunneller.summary().adopted
        self._close()
        if self.tunneller.summary().adopted > before:
            for checkpoint in trainer.checkpoint_callbacks:
                if path := getattr(checkpoint, "last_model_path", "") or getattr(checkpoint, "best_model_path", ""):
                    trainer.save_checkpoint(path)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go, and leave the model as it is."""
        if self.tunneller is not None:
            self.tunneller.__exit__(type(exception), exception, None)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {} if self.tunneller is None else self.tunneller.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, once training starts."""
        self._state = state_dict or None

    def _close(self) -> None:
        assert self.tunneller is not None
        self.tunneller.close(polish=self._polish_s > 0, timeout=self._polish_s or 5.0)

    def _validate(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        """The monitored value over the validation data, from what `validation_step` logs."""
        means = Means(self._monitor)
        own = {name: module.__dict__.get(name) for name in ("log", "log_dict")}
        module.__dict__["log"], module.__dict__["log_dict"] = means.log, means.log_dict
        module.eval()
        try:
            with torch.no_grad():
                module.on_validation_epoch_start()
                for batch in _batches(trainer):
                    moved = module.transfer_batch_to_device(batch, module.device, 0)
                    means.next(_rows(moved))
                    module.validation_step(moved, means.number)
                module.on_validation_epoch_end()
        finally:
            for name, value in own.items():
                module.__dict__.pop(name) if value is None else module.__dict__.update({name: value})
        return means.value()


def _batches(trainer: pl.Trainer) -> Any:
    """The batches of the validation data, at most as many as the Trainer would use."""
    loaders = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    limits = trainer.num_val_batches
    for loader, limit in zip(loaders, limits, strict=True):
        for number, batch in enumerate(loader):
            if number >= limit:
                break
            yield batch


def _rows(batch: Any) -> int:
    """How many samples a batch has."""
    if isinstance(batch, Tensor):
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch
    return next((_rows(part) for part in parts if isinstance(part, Tensor | Mapping | list | tuple)), 1)


def _is_last(trainer: pl.Trainer) -> bool:
    """Whether no further validation is to come."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    last_epoch = (
        epochs is not None and epochs != -1 and trainer.current_epoch + trainer.check_val_every_n_epoch >= epochs
    )  # type: ignore[operator]
    last_batch = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
    return trainer.should_stop or (last_epoch and last_batch) or (steps != -1 and trainer.global_step >= steps)
