"""The public face: notices a stall, has it solved in the background, and adopts an answer only if it helps."""

import copy
import logging
import math
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from torch import nn
from torch.optim import Optimizer

from shared.contracts import Feedback
from shared.objectives import Objective, ObjectiveName
from trainer.blocks import find_layer
from trainer.capture import Plan
from trainer.client import SolverClient
from trainer.errors import CaptureError
from trainer.events import Event, Kind, Summary
from trainer.guarding import Judge, Score, copy_state, read_score, write_state
from trainer.journal import Journal
from trainer.merge import State, Way, ways
from trainer.pilot import Answer, Orders, Pilot, Stall, Verdict
from trainer.radius import AdaptiveRadius
from trainer.samples import Data, open_source
from trainer.stall import Mode, StallDetector, improvement

logger = logging.getLogger("trainer.tunneller")


class Tunneller:
    """Tunnels a model out of local minima with the help of a solver pool.

    Call `step(score)` after each epoch (or every few batches) and `close()` at the end. `step` never waits for the
    pool; module modes, random state, gradients and `requires_grad` are as before, and until the first adoption a run
    is bit for bit what it would be without the tunneller.

    model, optimizer: what is being trained, on any device.
    data: training samples: a DataLoader (its data set is read directly), a map-style data set, or (inputs, targets).
        Integer targets mean classification, floating-point ones regression. Items should not be augmented at random.
    validate: scores the model as it is, on data that it is not trained on; a number, or a dict with `monitor` as key.
    mode: whether lower ("min") or higher ("max") scores are better.
    layer: the linear layer to tunnel, by name or as a module; the last one by default.
    objective: what jobs minimise; ramp for classification and mae for regression by default.
    radius: half-width of the box around the weights; None: a quarter of the layer's mean |weight|, then adapted.
    tail_radius: how far the last of the layers behind a hidden block may move with it.
    patience, min_delta, cooldown: when a stall is a stall (StallDetector); an answer, too, must gain `min_delta`.
    time_s, samples: the budget of a job, and how many training samples it sees.
    fanout: jobs per stall, with different radii, samples and seeds.
    sync: wait for the answer inside `step`, as the paper does.

    Raises CaptureError if the model cannot be copied or the data cannot be read at random.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer,
        data: Data,
        validate: Callable[[], Score],
        client: SolverClient,
        layer: str | nn.Module | None = None,
        objective: ObjectiveName | Objective | None = None,
        radius: float | None = None,
        tail_radius: float = 0.0,
        monitor: str | None = None,
        mode: Mode = "min",
        patience: int = 5,
        min_delta: float = 1e-4,
        cooldown: int = 2,
        time_s: float = 10.0,
        samples: int = 1000,
        fanout: int = 1,
        sync: bool = False,
        run: str | None = None,
        seed: int = 0,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._mode, self._min_delta, self._monitor, self._sync = mode, min_delta, monitor, sync
        self._detector = StallDetector(patience, min_delta, cooldown, mode)
        self._judge = Judge(model, validate, monitor)
        self._radius = AdaptiveRadius(radius)
        self._stalls = 0
        self._closed = False
        name = find_layer(model, layer)
        orders = Orders(
            plan=Plan(layer=name, samples=samples),
            objective=Objective(objective) if isinstance(objective, str) else objective,
            tail_radius=tail_radius,
            time_s=time_s,
            fanout=fanout,
            run=run or f"run-{uuid.uuid4().hex[:12]}",
            seed=seed,
        )
        source, shadow = open_source(data), _shadow(model)
        self._journal = Journal(optimizer)
        self._pilot = Pilot(shadow, source, client, orders, self._journal)
        self.run = orders.run

    def step(self, score: Score) -> bool:
        """Take the newest score; adopt what has arrived if it helps, or have a stall solved. True if adopted."""
        begun, validated = time.perf_counter(), self._judge.seconds
        try:
            return self._step(read_score(score, self._monitor))
        finally:
            own = time.perf_counter() - begun - (self._judge.seconds - validated)
            self._journal.longest_step_s = max(self._journal.longest_step_s, own)

    def _step(self, score: float) -> bool:
        self._journal.step += 1
        adopted = self._adopt_arrived()
        stalled = self._detector.update(score)
        if stalled and not adopted and not self._closed and self._pilot.idle.is_set():
            self._launch()
            if self._sync:
                self._pilot.idle.wait()
                adopted = self._adopt_arrived()
        return adopted

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary:
        """End: adopt what has arrived, cancel what is still out, and sum up; with `polish`, tunnel once more first.

        Waits at most about `timeout` seconds for the polish, and a few more for the pool to be told.
        """
        if not self._closed:
            self._adopt_arrived()
            if polish:
                self._polish(timeout)
            self._closed = True
            self._pilot.close(timeout=min(timeout, 5.0))
            self._journal.close()
        return self.summary()

    def _polish(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        self._pilot.abandon()
        if self._pilot.idle.wait(timeout):
            self._pilot.arrived()  # late answers to the old question: their jobs were made for another model
            self._launch()
            self._pilot.idle.wait(max(0.0, until - time.monotonic()))
            self._adopt_arrived()

    @property
    def history(self) -> tuple[Event, ...]:
        """Everything that happened so far, in order."""
        return self._journal.events

    @property
    def pool_lost(self) -> bool:
        """True if the pool could not be reached when it was last tried."""
        return self._journal.pool_lost

    def summary(self) -> Summary:
        """The figures so far."""
        return self._journal.summary(self._judge.seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- from stall to verdict ----------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Hand a copy of the model's state to the background; everything else happens there."""
        self._stalls += 1
        journal = self._journal
        journal.add("stall", self._stalls)
        state = copy_state(self._model, "cpu")
        self._pilot.launch(Stall(self._stalls, state, journal.step, journal.gd_step, self._radius.value))

    def _adopt_arrived(self) -> bool:
        verdicts = [self._decide(answer) for answer in self._pilot.arrived()]
        if any(verdicts):
            self._detector.rest()
        return any(verdicts)

    def _decide(self, answer: Answer) -> bool:
        """Try every way to merge an answer on the validation data, and keep the best if it helps."""
        if not answer.result.improved:
            self._conclude(answer, accepted=False, detail="the solver found nothing better in the box")
            return False
        original = copy_state(self._model)
        before = self._judge.score()
        way, after = self._best_way(answer, original)
        gained = improvement(before, after, self._mode)
        accepted = gained > 0 and gained >= self._min_delta
        if accepted:
            write_state(self._model, way.state)
            self._forget(way.state)
            self._radius.adopted()
        else:
            self._radius.rejected()
        self._conclude(answer, accepted=accepted, way=way.name, before=before, after=after)
        return accepted

    def _best_way(self, answer: Answer, original: State) -> tuple[Way, float]:
        tried = [
            (way, self._judge.score_with(way.state, original))
            for way in ways(original, answer.stall.state, answer.parameters)
        ]
        sign = 1.0 if self._mode == "max" else -1.0
        return max(tried, key=lambda pair: sign * pair[1] if pair[1] == pair[1] else float("-inf"))

    def _forget(self, changed: State) -> None:
        """Drop the optimizer's state (momentum, moments) for the parameters that were changed."""
        for name, parameter in self._model.named_parameters():
            if name in changed:
                self._optimizer.state.pop(parameter, None)

    def _conclude(
        self,
        answer: Answer,
        *,
        accepted: bool,
        way: str | None = None,
        before: float | None = None,
        after: float | None = None,
        detail: str | None = None,
    ) -> None:
        """Note the verdict, and have the pool told."""
        journal, stall = self._journal, answer.stall
        stale = journal.gd_step - stall.gd_step
        figures = {"before": before, "after": after, "staleness_steps": stale}
        kind: Kind = "adopted" if accepted else "rejected"
        journal.add(kind, stall.number, job=answer.job, way=way, detail=detail, **figures)
        finite = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        feedback = Feedback.model_validate({"accepted": accepted, "metric": self._monitor, **finite})
        self._pilot.report(Verdict(answer.job, feedback))
        logger.info("answer to stall %d %s: %s -> %s (%s)", stall.number, kind, before, after, way or detail)


def _shadow(model: nn.Module) -> nn.Module:
    """A copy of the model on the CPU, in evaluation mode and without the user's hooks, for the background thread."""
    try:
        shadow = copy.deepcopy(model).cpu().eval()
    except Exception as error:
        raise CaptureError(f"the model cannot be copied: {type(error).__name__}: {error}") from error
    for module in shadow.modules():
        module._forward_hooks.clear()
        for key, hook in list(module._forward_pre_hooks.items()):
            if not type(hook).__module__.startswith("torch."):
                del module._forward_pre_hooks[key]
    return shadow
