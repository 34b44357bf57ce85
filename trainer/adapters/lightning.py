"""A Lightning callback: batches from the training loop, scores from the user's own `validation_step`."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks as known
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torchmetrics import Metric

from trainer.adapters.recording import Recorder, metrics_kept
from trainer.adapters.settings import Pool, Settings, let_go, step
from trainer.errors import CaptureError
from trainer.model.live import eagerly
from trainer.restoring.draws import loaders_kept
from trainer.restoring.undisturbed import undisturbed
from trainer.speaking import logger
from trainer.tunneller import Tunneller

AVERAGING = tuple(
    getattr(known, name) for name in ("StochasticWeightAveraging", "WeightAveraging") if hasattr(known, name)
)
"""Callbacks that put averages in the place of weights: tunnels before that would be averaged away."""


class TunnelCallback(pl.Callback):
    """Tunnels the module that is fitted: `Trainer(callbacks=[LightningCallback(monitor="val_loss")])`.

    `from gdsolver import LightningCallback` brings it.

    monitor: the name under which `validation_step` logs the score that counts; `mode` may be left out where the name
        says it (loss, accuracy).
    model: the name of the part that maps a batch's inputs to outputs, where that is not the module's `forward`.
    client: a solver pool, or a function that makes one; by default what GDSOLVER_GATEWAY names, or this machine's.
    polish_s: how long the last tunnel may take, before the last checkpoint; 0: none.
    options: of the Tunneller.

    The score is computed by the module's own `validation_step` over the validation data, without the hooks of other
    callbacks and without a log entry. What is adopted replaces the monitored value in `trainer.callback_metrics`, which
    checkpoints and early stopping go by. Sanity checks, `fast_dev_run`, and finders of learning rates and batch sizes
    are left alone. Beside callbacks that average weights there is one tunnel, at the end, from the average.
    """

    def __init__(
        self, monitor: str, *, model: str | None = None, client: Pool = None, polish_s: float = 60.0, **options: Any
    ) -> None:
        self._monitor, self._part = monitor, model
        self._settings = Settings(client, polish_s, options)
        self._state: Mapping[str, Any] = {}
        self._score: float | None = None
        self._names = {monitor}
        self._averaged = self._unsaved = False
        self.tunneller: Tunneller | None = None

    # --- beginning ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Come after whatever swaps weights; Lightning itself has checkpoints come last."""
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        last = [callback for callback in others if isinstance(callback, known.Checkpoint)]
        between = [callback for callback in others if callback not in last]
        trainer.callbacks = [*between, self, *last]  # type: ignore[attr-defined]
        self._averaged = any(isinstance(callback, AVERAGING) for callback in others)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the tunneller, as soon as model and optimizer are where they will be trained."""
        let_go(self.tunneller)
        self.tunneller, self._score, self._unsaved = None, None, False
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if len(trainer.optimizers) != 1:
            raise CaptureError(
                f"{len(trainer.optimizers)} optimizers are at work, and a tunneller follows exactly one: only that "
                "knows which weights may move. Train with one, or make a Tunneller of your own for each part"
            )
        if not trainer.enable_validation or (_is_open(trainer) and _validation(trainer).skip):
            raise CaptureError("there is no validation, by which answers are judged: give `fit` validation data")
        self.tunneller = self._settings.tunneller(
            self._model(pl_module),
            trainer.optimizers[0],
            lambda: self._validate(trainer, pl_module),
            monitor=self._monitor,
        )
        if self._state:
            self.tunneller.load_state_dict(self._state)

    def _model(self, module: pl.LightningModule) -> nn.Module:
        if self._part is not None:
            return module.get_submodule(self._part)
        if type(module).forward is pl.LightningModule.forward:
            parts = " or ".join(f'model="{name}"' for name, _ in module.named_children())
            raise CaptureError(f"{type(module).__name__} has no forward(); give it one, or say which part: {parts}")
        return module

    # --- the loop -----------------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Deal with the last validation, and see a batch in passing."""
        if self.tunneller is not None and not self.tunneller.closed:
            self._step(trainer)
            self.tunneller.observe(batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the score. The step waits until all is over that belongs to validation, such as weights swapped in."""
        if self.tunneller is None or self.tunneller.closed or trainer.sanity_checking:
            return
        logged = _logged(trainer)
        if self._monitor not in logged:
            found = ", ".join(logged) or "nothing"
            raise CaptureError(f"monitor is {self._monitor!r}, which validation does not log; it logs: {found}")
        self._score = float(trainer.callback_metrics[self._monitor])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Deal with the last validation; polish if this was the last epoch, before its checkpoint."""
        if self.tunneller is not None and not self.tunneller.closed:
            self._step(trainer)
            if not self._averaged and _ends(trainer):
                self._close(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Polish where nobody knew that the end was near, and see that a checkpoint has what was adopted."""
        if self.tunneller is None:
            return
        if not self.tunneller.closed:
            self._step(trainer)
            self._close(trainer)
        if self._unsaved:
            _save_again(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go, and leave the model as it is."""
        let_go(self.tunneller)

    def _step(self, trainer: pl.Trainer) -> None:
        score, self._score = self._score, None
        if self.tunneller is not None and score is not None and not self._averaged:
            self._tell(trainer, step(self.tunneller, score))

    def _close(self, trainer: pl.Trainer) -> None:
        assert self.tunneller is not None
        polish = self._settings.polish_s > 0
        if polish:
            with undisturbed(trainer.lightning_module):
                polish = not _opened(trainer).skip
            if not polish:
                logger.warning("there was no last tunnel: the validation data, by which answers are judged, are empty")
        self._tell(trainer, self._settings.close(self.tunneller, polish=polish))

    def _tell(self, trainer: pl.Trainer, adopted: float | None) -> None:
        """Let checkpoints and early stopping know the score of the weights as they are now."""
        if adopted is not None:
            trainer.callback_metrics.update(dict.fromkeys(self._names, torch.tensor(adopted)))
            self._unsaved = True

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the settings, and makes a tunneller of its own."""
        return vars(self) | {"tunneller": None, "_score": None}

    # --- what a resumed run has to know -------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that the weights as they are now have been saved."""
        self._unsaved = False

    def state_dict(self) -> dict[str, Any]:
        """The tunneller's state, or the one that was loaded if there is none yet."""
        return dict(self._state) if self.tunneller is None else self.tunneller.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, once training starts."""
        self._state = state_dict

    # --- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        """The monitored value over the validation data, from what `validation_step` logs."""
        recorder = Recorder(self._monitor)
        with _aside(trainer, module, recorder):
            module.on_validation_start()
            module.on_validation_epoch_start()
            for batch, place in _batches(trainer, module, recorder):
                module.on_validation_batch_start(batch, *place)
                output = trainer.strategy.validation_step(*_accepted(module, batch, place))
                module.on_validation_batch_end(output, batch, *place)
            recorder.begin(None, "")
            module.on_validation_epoch_end()
            score, self._names = recorder.value(), recorder.names
            module.on_validation_end()
        return score


@contextmanager
def _aside(trainer: pl.Trainer, module: pl.LightningModule, recorder: Recorder) -> Iterator[None]:
    """Validate beside the loop: what is logged is recorded; loggers, metrics, generators and stage stay as they are."""
    stage, loggers, own = trainer.state.stage, trainer.loggers, vars(module).get("log")
    loaders = _opened(trainer)._combined_loader.flattened
    with ExitStack() as stack:
        stack.enter_context(metrics_kept(module, Metric))
        stack.enter_context(loaders_kept(loaders))
        stack.enter_context(eagerly())
        stack.enter_context(torch.no_grad())
        vars(module)["log"] = recorder.log
        try:
            trainer.loggers = [DummyLogger() for _ in loggers]
            trainer.validating = True
            module.eval()
            yield
        finally:
            trainer.loggers, trainer.state.stage = loggers, stage
            del vars(module)["log"]
            if own is not None:
                vars(module)["log"] = own


def _batches(
    trainer: pl.Trainer, module: pl.LightningModule, recorder: Recorder
) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """The validation batches on the module's device, as many as the Trainer would use, each with its place."""
    loop = _validation(trainer)
    combined, several = loop._combined_loader, loop._is_sequential and loop.num_dataloaders > 1
    combined.limits = loop.max_batches
    for raw, index, number in combined:
        batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(raw), number)
        batch = trainer.strategy.batch_to_device(batch, dataloader_idx=number)
        recorder.begin(batch, f"/dataloader_idx_{number}" if several else "")
        yield batch, (index, number) if several else (index,)


def _accepted(module: pl.LightningModule, batch: Any, place: tuple[int, ...]) -> tuple[Any, ...]:
    """What `validation_step` is called with: one that takes nothing but a batch gets nothing but a batch."""
    taken = inspect.signature(module.validation_step).parameters.values()
    alone = len(taken) == 1 and next(iter(taken)).kind is not inspect.Parameter.VAR_POSITIONAL
    return (batch,) if alone else (batch, *place)


# --- the validation data ----------------------------------------------------------------------------------------------


def _validation(trainer: pl.Trainer) -> Any:
    """The validation loop of the fit; `trainer.val_dataloaders` may be those of an earlier `validate`."""
    return trainer.fit_loop.epoch_loop.val_loop


def _logged(trainer: pl.Trainer) -> list[str]:
    """The names under which validation logs; in `trainer.callback_metrics` are those of training, too."""
    results = _validation(trainer)._results
    found = [item for item in results.result_metrics if item.meta.on_epoch]
    return list(dict.fromkeys(name for item in found for name in results._forked_name(item, on_step=False)))


def _is_open(trainer: pl.Trainer) -> bool:
    """Whether Lightning has asked for the loaders, as it does when an epoch begins that ends with a validation."""
    return _validation(trainer)._combined_loader is not None


def _opened(trainer: pl.Trainer) -> Any:
    """The validation loop with its loaders, which are asked for as Lightning would if no epoch has needed them yet."""
    loop, stage = _validation(trainer), trainer.state.stage
    if not _is_open(trainer):
        try:
            trainer.validating = True
            loop.setup_data()
        finally:
            trainer.state.stage = stage
    return loop


# --- the end ----------------------------------------------------------------------------------------------------------


def _ends(trainer: pl.Trainer) -> bool:
    """Whether no epoch comes after the one that ends now."""
    done = trainer.current_epoch + 1
    enough = done >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    return (
        (trainer.should_stop and enough)
        or (trainer.max_epochs not in (None, -1) and done >= trainer.max_epochs)
        or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps)
    )


def _save_again(trainer: pl.Trainer) -> None:
    """Have checkpoints of the Trainer rank and save the weights as they are after the last epoch.

    Lightning offers no public way to save again after the same step.
    """
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, known.ModelCheckpoint):
            candidates = callback._monitor_candidates(trainer)
            candidates["epoch"] = candidates["epoch"] - 1  # it was counted up since
            callback._save_topk_checkpoint(trainer, candidates)
            callback._save_last_checkpoint(trainer, candidates)
        else:
            logger.warning("%s may not have saved what was adopted last", type(callback).__name__)
