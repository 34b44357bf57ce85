"""A Transformers callback: batches from the Trainer's own steps, scores from its evaluation."""

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.adapters.settings import Pool, Settings, let_go, step
from trainer.errors import CaptureError
from trainer.restoring.draws import loaders_kept
from trainer.tunneller import Tunneller

STATE = "gdsolver"
"""Under this name the tunneller's state is in `trainer_state.json`."""


class TunnelCallback(TrainerCallback):
    """Tunnels the model that a Trainer trains: `trainer.add_callback(HuggingFaceCallback(trainer))`.

    `from gdsolver import HuggingFaceCallback` brings it.

    trainer: the Trainer, whose evaluation scores the model (set `eval_strategy`).
    monitor: the metric that counts, `metric_for_best_model` or "eval_loss" by default.
    client: a solver pool, or a function that makes one; by default what GDSOLVER_GATEWAY names, or this machine's.
    polish_s: how long the last tunnel may take, before the last checkpoint; 0: none.
    options: of the Tunneller. Tokens with label -100 are left out, as the loss does.

    What is adopted replaces the metric by which the Trainer chooses its best checkpoint.
    """

    def __init__(
        self,
        trainer: Trainer,
        monitor: str | None = None,
        *,
        client: Pool = None,
        polish_s: float = 60.0,
        **options: Any,
    ) -> None:
        name = monitor or trainer.args.metric_for_best_model or "eval_loss"
        self._monitor = name if name.startswith("eval_") else f"eval_{name}"
        self._trainer, self._settings = trainer, Settings(client, polish_s, options)
        self._step: SeenStep | None = None
        self._loader: Any = None
        self.tunneller: Tunneller | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the tunneller, as soon as model and optimizer are where they will be trained."""
        self.let_go()
        if self._trainer.eval_dataset is None:
            raise CaptureError("the Trainer has no eval_dataset, by which answers are judged; give it one")
        handler = self._trainer.callback_handler
        # last, so that it is known by then whether early stopping has ended training
        handler.callbacks = [*(callback for callback in handler.callbacks if callback is not self), self]
        self._loader = self._trainer.get_eval_dataloader(self._dataset())
        greater = args.greater_is_better if self._monitor.endswith(args.metric_for_best_model or " ") else None
        told = {} if greater is None else {"mode": "max" if greater else "min"}
        self.tunneller = self._settings.tunneller(
            kwargs["model"], kwargs["optimizer"], self._validate, monitor=self._monitor, **told
        )
        states: Any = state.stateful_callbacks
        if STATE in states:
            self.tunneller.load_state_dict(states[STATE])
        self._step = SeenStep(self, self._trainer)

    def let_go(self) -> None:
        """End a tunneller that an exception in `train` has left behind; the model stays as it is."""
        self._put_back()
        let_go(self.tunneller)

    def _put_back(self) -> None:
        """Let the Trainer's training step be what it was."""
        if self._step is not None:
            self._step.over = True
            self._step.put_back()
            self._step = None

    def _dataset(self) -> str | None:
        """The one of several sets that the monitor speaks of; None if there is but one."""
        sets = self._trainer.eval_dataset
        if not isinstance(sets, dict):
            return None
        for name in sets:
            if self._monitor.startswith(f"eval_{name}_"):
                return str(name)
        raise CaptureError(
            f"monitor is {self._monitor!r}; name a set: {', '.join(f'eval_{name}_...' for name in sets)}"
        )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the newest score; if this was the last evaluation polish, so that the last checkpoint has it."""
        try:
            self._take(kwargs["metrics"], state, control)
        except BaseException:
            self.let_go()
            raise

    def _take(self, metrics: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if self.tunneller is None or self.tunneller.closed:
            return
        if self._monitor not in metrics:
            if isinstance(self._trainer.eval_dataset, dict):  # another one of several
                return
            raise CaptureError(f"monitor is {self._monitor!r}, but evaluation gives: {', '.join(metrics)}")
        adopted = step(self.tunneller, metrics[self._monitor])
        if control.should_training_stop or state.global_step >= state.max_steps:
            adopted = self._close() or adopted
        states: Any = state.stateful_callbacks
        states[STATE] = self.tunneller.state_dict()
        if adopted is not None:
            metrics[self._monitor] = adopted  # the Trainer ranks checkpoints by it

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Polish where no evaluation was the last thing, and bring its checkpoint up to date."""
        self._put_back()
        if self.tunneller is None or self.tunneller.closed or self._close() is None:
            return
        last = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if (folder := Path(best) if best else last).is_dir():
            self._trainer.save_model(str(folder))

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the settings, and makes a tunneller of its own."""
        return vars(self) | {"tunneller": None, "_loader": None}

    def _close(self) -> float | None:
        assert self.tunneller is not None
        return self._settings.close(self.tunneller)

    def _validate(self) -> dict[str, float]:
        """The Trainer's own evaluation, without callbacks and log."""
        handler, prefix = self._trainer.callback_handler, "_".join(filter(None, ("eval", self._dataset())))
        callbacks, handler.callbacks, loader = handler.callbacks, [], handler.eval_dataloader
        try:
            with loaders_kept([self._loader]):
                output = self._trainer.evaluation_loop(
                    self._loader,
                    description="tunnel",
                    prediction_loss_only=True if self._trainer.compute_metrics is None else None,
                    metric_key_prefix=prefix,
                )
        finally:
            handler.callbacks, handler.eval_dataloader = callbacks, loader
        return {self._monitor: float((output.metrics or {})[self._monitor])}


class SeenStep:
    """A Trainer's training step whose batches are seen as they are handed over: with labels, and nothing popped yet.

    It is the Trainer's `training_step` from here on, until it is over and put back.
    """

    def __init__(self, callback: TunnelCallback, trainer: Trainer) -> None:
        self.over, self._callback, self._trainer = False, callback, trainer
        self._before, self._own = vars(trainer).get("training_step"), trainer.training_step
        vars(trainer)["training_step"] = self

    def __call__(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        """Take the step; where it fails, that was the last to be seen."""
        if self.over:
            return self._own(model, inputs, *rest, **options)
        if self._callback.tunneller is not None:
            self._callback.tunneller.observe(inputs)
        try:
            return self._own(model, inputs, *rest, **options)
        except BaseException:
            self._callback.let_go()
            raise

    def put_back(self) -> None:
        """Give the Trainer the step that it had, or the class's where it had none, unless others came since."""
        own, known = vars(self._trainer), self._trainer.callback_handler.callbacks
        found = own.pop("training_step", None)
        while isinstance(found, SeenStep) and (found.over or found._callback not in known):
            found = found._before
        if found is not None:
            own["training_step"] = found
