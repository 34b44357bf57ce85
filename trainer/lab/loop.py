"""The training loop of the command line: plain GD with the tunneller's three lines in it."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.lab.at_stall import AtStall, arrange
from trainer.lab.best import Best, Clock
from trainer.lab.callbacks import Callback
from trainer.lab.checkpoint import Checkpoint, digest
from trainer.lab.goal import Goal
from trainer.lab.methods import Method, RateSchedule, make_optimizer, steps_per_epoch
from trainer.lab.pruning import pruned
from trainer.lab.runs import Epoch, Run, fingerprint
from trainer.lab.tasks import Split, Task
from trainer.pool.client import SolverClient


@dataclass(frozen=True)
class Settings:
    """How to run: epochs and layer (None: the task's own), the selection metric to stop at, and how to tunnel.

    `until_stalled` (None: the task's own) ends a run after so many epochs in which the selection metric gained less
    than a thousandth of itself or a millionth of its first value; `most_s` ends it after so many seconds, `most_cpu_s`
    after so many that this process has had the CPU for. `checkpoint` is the file that the run's state is written to as
    it goes; with `resume` it goes on from there, if there is one.
    """

    epochs: int | None = None
    target_metric: float | None = None
    until_stalled: int | None = None
    most_s: float | None = None
    most_cpu_s: float | None = None
    layer: str | None = None
    sync: bool = False
    fanout: int = 1
    polish_s: float = 60.0
    run: str | None = None
    checkpoint: Path | None = None
    resume: bool = False


def train(
    task: Task,
    method: Method,
    *,
    seed: int,
    settings: Settings,
    callback: Callback,
    client: SolverClient | None = None,
) -> Run:
    """Train a task's model by one method and report it; everything random comes from `seed`.

    The reported weights are those with the best selection metric, polished by a last tunnel in the hybrid. Ctrl-C ends
    the run early: what was reached is reported, marked as interrupted.
    """
    training = _Training(task, method, seed, settings, callback, client)
    try:
        training.begin()
        while not training.over:
            training.epoch()
        training.finish()
    except KeyboardInterrupt:
        training.break_off()
    run = training.report()
    callback.on_end(run)
    return run


class _Training:
    """One run on its way, and all that a resumed one has to know."""

    def __init__(
        self,
        task: Task,
        method: Method,
        seed: int,
        settings: Settings,
        callback: Callback,
        client: SolverClient | None,
    ) -> None:
        self.clock = Clock()
        torch.manual_seed(seed)
        task = pruned(task, seed) if method.prunes else task
        self.task, self.method, self.seed, self.settings, self.callback = task, method, seed, settings, callback
        self.model = task.model()
        self.optimizer = make_optimizer(method, self.model, task.defaults)
        self.goal = method.goal(task)
        self.at_stall = arrange(
            method,
            with_layer(task, settings.layer),
            self.model,
            self.optimizer,
            seed=seed,
            client=client,
            goal=self.goal,
            on_event=callback.on_event,
            **_tunnelling(settings, seed),
        )
        self.tunneller_began = self.clock.seconds()
        self.best, self.epochs = Best(self.model, task), list[Epoch]()
        self.shuffle = torch.Generator().manual_seed(seed)
        self.limit = settings.epochs or task.defaults.epochs
        self.schedule = RateSchedule(method, self.optimizer, task, self.limit)
        self.checkpoint = settings.checkpoint and Checkpoint(settings.checkpoint, self._about())
        self.polished, self.interrupted, self.resumed_after = False, False, 0

    def _about(self) -> dict[str, Any]:
        """What another run of this name would differ in."""
        settings = self.settings
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "task": self.task.name,
            "method": self.method.name,
            "seed": self.seed,
            "layer": settings.layer,
            "sync": settings.sync,
            "weights": weights,
            "data": digest(self.task),
        }

    def begin(self) -> None:
        """Begin, or go on where the checkpoint was written; TaskError if that is of another run."""
        if self.checkpoint:
            state = self.checkpoint.load() if self.settings.resume else None
            if state is None:
                self.checkpoint.write(self.state_dict())  # it names the run: jobs before the next one are found again
            else:
                self.load_state_dict(state)
        self.callback.on_begin(self.task, self.method, self.seed, self.limit)
        for epoch in self.epochs:
            self.callback.on_epoch(epoch)

    @property
    def over(self) -> bool:
        """Whether GD has come to its end: all epochs, the metric that was wanted, a stall for good, or no more time."""
        if not self.epochs:
            return False
        settings, best = self.settings, self.best
        patience = settings.until_stalled or self.task.defaults.until_stalled
        return (
            len(self.epochs) >= self.limit
            or best.is_as_good_as(settings.target_metric)
            or (patience is not None and best.waited >= patience)
            or (settings.most_s is not None and self.clock.seconds() >= settings.most_s)
            or (settings.most_cpu_s is not None and self.clock.cpu_seconds() >= settings.most_cpu_s)
        )

    def epoch(self) -> None:
        """One pass over the training samples, and what the method does after it."""
        begun, task = self.clock.seconds(), self.task
        size = len(task.train) if self.method.full_batch else task.defaults.batch_size
        for batch in _batches(task, self.shuffle, size):
            self.optimizer.step(partial(_slope, task, self.model, self.optimizer, self.goal, batch))
        score, ended = self.best.update(), self.clock.seconds()
        if changed := self.at_stall.step(score):
            score = self.best.update()
        self.schedule.step(score)
        self.best.count()
        self.epochs.append(Epoch(len(self.epochs) + 1, begun, ended, score, changed))
        self.callback.on_epoch(self.epochs[-1])
        if self.checkpoint and (self.checkpoint.due or self.over):
            self.checkpoint.write(self.state_dict())

    def finish(self) -> None:
        """Tunnel the best weights once more."""
        self.best.restore()
        self.callback.on_polish()
        before = _adopted(self.at_stall)
        self.at_stall.close(polish=True, timeout=self.settings.polish_s)
        self.polished = _adopted(self.at_stall) > before

    def break_off(self) -> None:
        """End with what was reached."""
        self.interrupted = True
        self.best.restore()
        self.at_stall.close(timeout=2.0)

    def state_dict(self) -> dict[str, Any]:
        """All that an epoch leaves behind; the last gradients, too, because the policy looks at them."""
        gradients = {name: value.grad for name, value in self.model.named_parameters() if value.grad is not None}
        return {
            "model": self.model.state_dict(),
            "gradients": gradients,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "at_stall": self.at_stall.state_dict(),
            "best": self.best.state_dict(),
            "epochs": [astuple(epoch) for epoch in self.epochs],
            "shuffle": self.shuffle.get_state(),
            "randomness": torch.get_rng_state(),
            "seconds": self.clock.seconds(),
            "tunneller_began": self.tunneller_began,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        for name, gradient in state["gradients"].items():
            self.model.get_parameter(name).grad = gradient
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.at_stall.load_state_dict(state["at_stall"])
        self.best.load_state_dict(state["best"])
        self.epochs = [Epoch(*values) for values in state["epochs"]]
        self.resumed_after = len(self.epochs)
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["randomness"])
        self.clock.go_on(state["seconds"])
        self.tunneller_began = state["tunneller_began"]

    def report(self) -> Run:
        """Look at the test part, once, and write everything down."""
        task, model = self.task, self.model
        seconds, summary = self.clock.seconds(), self.at_stall.close()
        return Run(
            task=task.name,
            method=self.method.name,
            seed=self.seed,
            metric=task.metric,
            selection=task.score(model, task.selection),
            validation=task.score(model, task.validation),
            test=task.score(model, task.test),
            seconds=seconds,
            gd_seconds=sum(epoch.ended_s - epoch.begun_s for epoch in self.epochs),
            gd_steps=len(self.epochs) * steps_per_epoch(self.method, task),
            epochs=tuple(self.epochs),
            weights_sha256=fingerprint(model),
            events=tuple(replace(event, t_s=event.t_s + self.tunneller_began) for event in self.at_stall.history),
            summary=summary,
            polished=self.polished,
            interrupted=self.interrupted,
            target_reached=self.best.is_as_good_as(self.settings.target_metric),
            resumed_after=self.resumed_after,
        )


def _adopted(at_stall: AtStall) -> int:
    return sum(event.kind == "adopted" for event in at_stall.history)


def _batches(task: Task, shuffle: torch.Generator, size: int) -> Iterator[Split]:
    order = torch.randperm(len(task.train), generator=shuffle)
    for chosen in torch.split(order, size):
        yield task.train[chosen]


def _slope(task: Task, model: nn.Module, optimizer: Optimizer, goal: Goal, batch: Split) -> float:
    """The loss on a batch, its gradient left in the parameters."""
    optimizer.zero_grad()
    loss = goal(task, model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss  # type: ignore[return-value]  # optimizers take what is like a number


def with_layer(task: Task, layer: str | None) -> Task:
    """The task with another layer to tunnel (None: its own)."""
    return task if layer is None else replace(task, tunnel=replace(task.tunnel, layer=layer))


def _tunnelling(settings: Settings, seed: int) -> dict[str, Any]:
    run = f"{settings.run}-{seed}" if settings.run else None
    return {"sync": settings.sync, "fanout": settings.fanout, "run": run}
