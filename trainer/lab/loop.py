"""The training loop of the command line: plain GD with the tunneller's three lines in it."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.lab.at_stall import AtStall, arrange
from trainer.lab.callbacks import Callback
from trainer.lab.losses import Losses
from trainer.lab.methods import Method, RateSchedule, make_optimizer, steps_per_epoch
from trainer.lab.runs import Epoch, Run, fingerprint
from trainer.lab.tasks import Split, Task
from trainer.pool.client import SolverClient
from trainer.stalls.detector import improvement

LEAST_GAIN = 1e-3
LEAST_OF_FIRST = 1e-6


@dataclass(frozen=True)
class Settings:
    """How to run: epochs and layer (None: the task's own), the selection metric to stop at, and how to tunnel.

    `until_stalled` (None: the task's own) ends a run after so many epochs in which the selection metric gained less
    than a thousandth of itself or a millionth of its first value; `most_s` ends it after so many seconds, `most_cpu_s`
    after so many that this process has had the CPU for.
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
    clock = Clock()
    torch.manual_seed(seed)
    model = task.model()
    optimizer = make_optimizer(method, model, task.defaults)
    losses = method.losses(task)
    tunnelled = with_layer(task, settings.layer)
    at_stall = arrange(method, tunnelled, model, optimizer, seed=seed, client=client, **_tunnelling(settings, seed))
    tunneller_began = clock.seconds()
    best, epochs, interrupted, polished = Best(model, task), list[Epoch](), False, False
    shuffle = torch.Generator().manual_seed(seed)
    limit = settings.epochs or task.defaults.epochs
    schedule = RateSchedule(method, optimizer, task, limit)
    callback.on_begin(task, method, seed, limit)
    try:
        for number in range(1, limit + 1):
            begun = clock.seconds()
            for batch in _batches(task, shuffle, len(task.train) if method.full_batch else task.defaults.batch_size):
                optimizer.step(partial(_slope, task, model, optimizer, losses, batch))
            score, ended = best.update(), clock.seconds()
            if changed := at_stall.step(score):
                score = best.update()
            schedule.step(score)
            best.count()
            epochs.append(Epoch(number, begun, ended, score, changed))
            callback.on_epoch(epochs[-1])
            if best.is_as_good_as(settings.target_metric) or _over(task, settings, best, clock):
                break
        best.restore()
        callback.on_polish()
        polished = _polish(at_stall, settings.polish_s)
    except KeyboardInterrupt:
        interrupted = True
        best.restore()
        at_stall.close(timeout=2.0)
    run = _report(task, method, seed=seed, model=model, epochs=epochs, at_stall=at_stall, seconds=clock.seconds())
    events = tuple(replace(event, t_s=event.t_s + tunneller_began) for event in run.events)
    run = replace(
        run,
        events=events,
        polished=polished,
        interrupted=interrupted,
        target_reached=best.is_as_good_as(settings.target_metric),
    )
    callback.on_end(run)
    return run


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._began

    def cpu_seconds(self) -> float:
        """Seconds of CPU that all threads of this process have had until now."""
        return time.process_time() - self._cpu_began


class Best:
    """Remembers the weights with the best selection metric."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model, self._task = model, task
        self._score, self._state = float("nan"), copy.deepcopy(model.state_dict())
        self._first, self._mark = float("nan"), float("nan")
        self.waited = 0
        """Epochs since the last real gain."""

    def update(self) -> float:
        """Score the model as it is, and remember it if it is the best so far."""
        score = self._task.score(self._model, self._task.selection)
        if improvement(self._score, score, self._task.mode) > 0:
            self._score, self._state = score, copy.deepcopy(self._model.state_dict())
        return score

    def count(self) -> None:
        """Count an epoch as waited, unless it has brought a real gain."""
        if math.isnan(self._first):
            self._first = self._mark = self._score
            return
        gained = improvement(self._mark, self._score, self._task.mode)
        if gained > max(LEAST_GAIN * abs(self._mark), LEAST_OF_FIRST * abs(self._first)):
            self._mark, self.waited = self._score, 0
        else:
            self.waited += 1

    def restore(self) -> None:
        """Put the best weights back."""
        self._model.load_state_dict(self._state)

    def is_as_good_as(self, target: float | None) -> bool:
        """Whether the best score reaches `target`; never if there is none."""
        return target is not None and improvement(target, self._score, self._task.mode) >= 0


def _polish(at_stall: AtStall, timeout: float) -> bool:
    """Tunnel the best weights once more; True if that has brought something."""
    before = _adopted(at_stall)
    at_stall.close(polish=True, timeout=timeout)
    return _adopted(at_stall) > before


def _adopted(at_stall: AtStall) -> int:
    return sum(event.kind == "adopted" for event in at_stall.history)


def _over(task: Task, settings: Settings, best: Best, clock: Clock) -> bool:
    """Whether a run has stalled for good, or its time is up."""
    patience = settings.until_stalled or task.defaults.until_stalled
    stalled = patience is not None and best.waited >= patience
    late = settings.most_s is not None and clock.seconds() >= settings.most_s
    return stalled or late or (settings.most_cpu_s is not None and clock.cpu_seconds() >= settings.most_cpu_s)


def _batches(task: Task, shuffle: torch.Generator, size: int) -> Iterator[Split]:
    order = torch.randperm(len(task.train), generator=shuffle)
    for chosen in torch.split(order, size):
        yield task.train[chosen]


def _slope(task: Task, model: nn.Module, optimizer: Optimizer, losses: Losses | None, batch: Split) -> float:
    """The loss on a batch, its gradient left in the parameters."""
    optimizer.zero_grad()
    loss = task.loss(model(batch.inputs), batch.targets, batch.weights, losses)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss  # type: ignore[return-value]  # optimizers take what is like a number


def with_layer(task: Task, layer: str | None) -> Task:
    """The task with another layer to tunnel (None: its own)."""
    return task if layer is None else replace(task, tunnel=replace(task.tunnel, layer=layer))


def _tunnelling(settings: Settings, seed: int) -> dict[str, Any]:
    run = f"{settings.run}-{seed}" if settings.run else None
    return {"sync": settings.sync, "fanout": settings.fanout, "run": run}


def _report(
    task: Task,
    method: Method,
    *,
    seed: int,
    model: nn.Module,
    epochs: list[Epoch],
    at_stall: AtStall,
    seconds: float,
) -> Run:
    """Look at the test part, once, and write everything down."""
    return Run(
        task=task.name,
        method=method.name,
        seed=seed,
        metric=task.metric,
        selection=task.score(model, task.selection),
        validation=task.score(model, task.validation),
        test=task.score(model, task.test),
        seconds=seconds,
        gd_seconds=sum(epoch.ended_s - epoch.begun_s for epoch in epochs),
        gd_steps=len(epochs) * steps_per_epoch(method, task),
        epochs=tuple(epochs),
        weights_sha256=fingerprint(model),
        events=at_stall.history,
        summary=at_stall.close(),
    )
