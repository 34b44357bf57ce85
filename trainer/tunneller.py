"""The public face: notices a stall, has it solved in the background, and adopts an answer only if it helps."""

import copy
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from torch import nn
from torch.optim import Optimizer

from shared.contracts import Feedback
from shared.objectives import Objective, ObjectiveName
from trainer.adoption.candidates import MergeCandidate, State, merge_candidates
from trainer.adoption.validation import Score, Validator, copy_state, read_score, write_state
from trainer.errors import CaptureError
from trainer.events import Event, Kind, Summary
from trainer.journal import Journal
from trainer.pool.background import Answer, BackgroundWorker, Stall, Verdict
from trainer.pool.client import SolverClient
from trainer.pool.job_template import JobTemplate
from trainer.snapshots.blocks import find_layer
from trainer.snapshots.capture import Plan
from trainer.snapshots.samples import Data, open_source
from trainer.stalls.detector import DeltaMode, Mode, StallDetector, improvement, least_gain
from trainer.stalls.policy import AUTO
from trainer.stalls.radius import AdaptiveRadius
from trainer.stalls.survey import relative_gradients

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
    layer: the linear layer to tunnel, by name or as a module; the last one by default. "auto": at every stall the
        policy chooses (dead units first, then each layer in turn), and the final layer follows a hidden one's success.
        A network of at most 5,000 weights goes as a whole first, unless `radius` or `tail_radius` is given.
    tail: what follows a hidden `layer`, where that cannot be seen by watching its modules: layers by name or as
        modules, activations as modules.
    objective: what jobs minimise; ramp for classification and mae for regression by default.
    radius: half-width of the box around the weights; None: a quarter of the layer's mean |weight|, then adapted.
    tail_radius: how far the last of the layers behind a hidden block may move with it; None: as far as the block,
        0: not at all, and then the solver can prove how good its answer is.
    patience, min_delta, delta_mode, cooldown: when a stall is a stall (StallDetector); an answer, too, must gain
        `min_delta`.
    first_after: tunnel after so many checks for a first time, whether GD has stalled by then or not.
    time_s, samples: the budget of a job, and how many training samples it sees; while training is younger than
        `time_s`, jobs get as much time as training has had.
    fanout: jobs per stall, with different radii, samples and seeds.
    sync: wait for the answer inside `step`, as the paper does.

    Raises CaptureError if the model cannot be copied or the data cannot be read at random, ValueError for a setting
    that makes no sense.
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
        tail: Sequence[str | nn.Module] | None = None,
        objective: ObjectiveName | Objective | None = None,
        radius: float | None = None,
        tail_radius: float | None = None,
        monitor: str | None = None,
        mode: Mode = "min",
        patience: int = 5,
        min_delta: float = 1e-4,
        delta_mode: DeltaMode = "abs",
        cooldown: int = 2,
        first_after: int | None = None,
        time_s: float = 10.0,
        samples: int = 1000,
        fanout: int = 1,
        sync: bool = False,
        run: str | None = None,
        seed: int = 0,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._mode, self._monitor, self._sync = mode, monitor, sync
        self._detector = StallDetector(patience, min_delta, cooldown, mode, delta_mode)
        self._validator = Validator(model, validate, monitor)
        self._radius = AdaptiveRadius(radius)
        self._stalls = 0
        self._closed = False
        self._first_after = first_after
        self._layer = AUTO if layer == AUTO else find_layer(model, layer)
        self._turns: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        template = JobTemplate(
            plan=Plan(tail=_names(model, tail), samples=samples),
            objective=Objective(objective) if isinstance(objective, str) else objective,
            tail_radius=tail_radius,
            whole=radius is None and tail_radius is None,
            time_s=time_s,
            fanout=fanout,
            run=run or f"run-{uuid.uuid4().hex[:12]}",
            seed=seed,
        )
        source, shadow = open_source(data), _shadow(model)
        self._journal = Journal(optimizer)
        self._worker = BackgroundWorker(shadow, source, client, template, self._journal)
        self.run = template.run

    def step(self, score: Score) -> bool:
        """Take the newest score; adopt what has arrived if it helps, or have a stall solved. True if adopted."""
        begun, validated = time.perf_counter(), self._validator.seconds
        try:
            return self._step(read_score(score, self._monitor))
        finally:
            own = time.perf_counter() - begun - (self._validator.seconds - validated)
            self._journal.longest_step_s = max(self._journal.longest_step_s, own)

    def _step(self, score: float) -> bool:
        self._journal.step += 1
        adopted = self._adopt_arrived()
        stalled = self._detector.update(score) or self._journal.step == self._first_after
        if stalled and not adopted and not self._closed and self._worker.idle.is_set():
            self._launch()
            if self._sync:
                adopted = self._adopt_all(math.inf)
        return adopted

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary:
        """End: adopt what has arrived, cancel what is still out, and sum up; with `polish`, tunnel once more first.

        Waits at most about `timeout` seconds for the polish, and a few more for the pool to be told.
        """
        if not self._closed:
            self._adopt_arrived(follow=False)
            if polish:
                self._polish(timeout)
            self._closed = True
            self._worker.close(timeout=min(timeout, 5.0))
            self._journal.close()
        return self.summary()

    def _polish(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        self._worker.abandon()
        if self._worker.idle.wait(timeout):
            self._worker.arrived()  # late answers to the old question: their jobs were made for another model
            self._launch(last=True)
            self._adopt_all(until)

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
        return self._journal.summary(self._validator.seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- from stall to verdict ----------------------------------------------------------------------------------------

    def _launch(self, layer: str | None = None, *, last: bool = False) -> None:
        """Hand a copy of the model's state to the background; everything else happens there."""
        self._stalls += 1
        journal = self._journal
        journal.add("stall", self._stalls)
        stall = Stall(
            number=self._stalls,
            state=copy_state(self._model, "cpu"),
            step=journal.step,
            gd_step=journal.gd_step,
            age_s=journal.age_s,
            radius_of=self._radius.value,
            layer=layer or self._layer,
            last=last,
            turns={} if last else dict(self._turns),
            gradients=relative_gradients(self._model) if self._layer == AUTO else {},
        )
        self._worker.launch(stall)

    def _adopt_arrived(self, *, follow: bool = True) -> bool:
        """Decide on every answer that is there; True if one is adopted. The final layer follows a hidden one."""
        answers = self._worker.arrived()
        adopted = [self._decide(answer) for answer in answers]
        if any(adopted):
            self._detector.rest()
        if follow and self._layer == AUTO and any(answer.hidden for answer in answers) and self._worker.idle.is_set():
            self._launch(find_layer(self._model))
        return any(adopted)

    def _adopt_all(self, until: float) -> bool:
        """Wait for all that is out, and for what follows it, but not beyond `until` (monotonic seconds)."""
        adopted = False
        while True:
            left = until - time.monotonic()
            in_time = self._worker.idle.wait(None if left == math.inf else max(0.0, left))
            adopted |= self._adopt_arrived()
            if not in_time or self._worker.idle.is_set():
                return adopted

    def _decide(self, answer: Answer) -> bool:
        """Try every way to merge an answer on the validation data, and keep the best if it helps."""
        if not answer.result.improved:
            self._failed(answer)
            self._conclude(answer, accepted=False, detail="the solver found nothing better in the box")
            return False
        original = copy_state(self._model)
        before = self._validator.score()
        way, after = self._best_way(answer, original)
        gained = improvement(before, after, self._mode)
        accepted = gained > 0 and gained >= least_gain(self._detector.min_delta, self._detector.delta_mode, before)
        if accepted:
            write_state(self._model, way.state)
            self._forget(way.state)
            self._helped(answer)
        else:
            self._failed(answer)
        self._conclude(answer, accepted=accepted, way=way.name, before=before, after=after)
        return accepted

    def _helped(self, answer: Answer) -> None:
        self._turns[answer.turn] = 0
        self._settled[answer.turn] = answer.stall.number
        if not answer.whole:
            self._radius.adopted()

    def _failed(self, answer: Answer) -> None:
        """Count a failure, one a stall at most, and none where another answer to the same stall has helped."""
        if answer.result.improved and not answer.whole:
            self._radius.rejected()
        if self._settled.get(answer.turn) != answer.stall.number:
            self._turns[answer.turn] = self._turns.get(answer.turn, 0) + 1
            self._settled[answer.turn] = answer.stall.number

    def _best_way(self, answer: Answer, original: State) -> tuple[MergeCandidate, float]:
        tried = [
            (way, self._validator.score_with(way.state, original))
            for way in merge_candidates(original, answer.stall.state, answer.parameters)
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
        self._worker.report(Verdict(answer.job, feedback))
        logger.info("answer to stall %d %s: %s -> %s (%s)", stall.number, kind, before, after, way or detail)


def _names(model: nn.Module, tail: Sequence[str | nn.Module] | None) -> tuple[str | nn.Module, ...] | None:
    """The tail with its layers by name, so that it describes a copy of the model, too."""
    if tail is None:
        return None
    return tuple(find_layer(model, part) if isinstance(part, str | nn.Linear | nn.Conv2d) else part for part in tail)


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
