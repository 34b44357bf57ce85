"""A Transformers callback: batches from the model's own calls, scores from the Trainer's evaluation."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.errors import CaptureError
from trainer.pool.client import SolverClient
from trainer.tunneller import Tunneller


class TunnelCallback(TrainerCallback):
    """Tunnels the model that a Trainer trains: `trainer.add_callback(TunnelCallback(trainer))`.

    trainer: the Trainer, whose evaluation scores the model (set `eval_strategy`); `monitor` is the metric's name,
        "eval_loss" by default.
    client: a solver pool; by default the one that GDSOLVER_GATEWAY names, or this machine's.
    polish_s: how long the last tunnel may take, before the last checkpoint; 0: none.
    options: of the Tunneller. Sequences with label -100 are left out, as the loss does.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        monitor: str = "eval_loss",
        client: SolverClient | None = None,
        polish_s: float = 60.0,
        **options: Any,
    ) -> None:
        self._trainer, self._monitor = trainer, monitor
        self._client, self._polish_s, self._options = client, polish_s, options
        self._hook: Any = None
        self.tunneller: Tunneller | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the tunneller, as soon as model and optimizer are where they will be trained."""
        model: nn.Module = kwargs["model"]
        self.tunneller = Tunneller(
            model,
            optimizer=kwargs["optimizer"],
            validate=self._validate,
            client=self._client or SolverClient(),
            monitor=self._monitor,
            **self._options,
        )
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See a batch in passing: the training loop calls the model with labels and gradients."""
        if self.tunneller is not None and model.training and torch.is_grad_enabled() and "labels" in kwargs:
            self.tunneller.observe(dict(kwargs))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the newest score; at the end polish, so that the last checkpoint has it."""
        if self.tunneller is None or self.tunneller.closed:
            return
        metrics = kwargs["metrics"]
        if self._monitor not in metrics:
            raise CaptureError(f"the evaluation gives no {self._monitor!r}; it gives: {', '.join(metrics)}")
        self.tunneller.step({self._monitor: metrics[self._monitor]})
        if state.global_step >= state.max_steps or control.should_training_stop:
            self._close()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Polish where no evaluation was the last thing, and let go."""
        if self.tunneller is not None and not self.tunneller.closed:
            self._close()

    def _close(self) -> None:
        assert self.tunneller is not None
        if self._hook is not None:
            self._hook.remove()
        self.tunneller.close(polish=self._polish_s > 0, timeout=self._polish_s or 5.0)

    def _validate(self) -> dict[str, float]:
        """The Trainer's own evaluation, without its callbacks and its log."""
        output = self._trainer.evaluation_loop(
            self._trainer.get_eval_dataloader(), description="tunnel", metric_key_prefix="eval"
        )
        return {self._monitor: float(output.metrics[self._monitor])}
