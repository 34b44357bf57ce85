"""The public face: keeps samples, notices a stall, has it solved in the background, and adopts an answer that helps."""

import dataclasses
import itertools
import math
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, SupportsIndex

import torch
from torch import nn

from shared.contracts import Constraint
from shared.objectives import Objective, ObjectiveName
from shared.snapshot import Task
from trainer.adoption import parameters
from trainer.adoption.adopter import Adopter
from trainer.adoption.decision import Court, Threshold
from trainer.adoption.left_alone import Habits
from trainer.adoption.ranks import Weights
from trainer.adoption.requirements import Required, parse
from trainer.adoption.suspicions import Suspicion
from trainer.adoption.validation import Score, ScoreTrust, Validator, direction, read_score
from trainer.course import Course
from trainer.errors import CaptureError, DataError, FinalLayerError, NothingCountsError, TrainerError, interrupts
from trainer.events import Event, Kind, Summary, as_state, of_state
from trainer.explain import Explanation, explain
from trainer.journal import Journal, OnEvent
from trainer.model.chain import described
from trainer.model.live import device_of
from trainer.model.movable import Movable
from trainer.model.wrappers import unwrap, unwrap_optimizer
from trainer.pool.background import BackgroundWorker
from trainer.pool.client import SolverClient
from trainer.pool.constraints import read_constraints
from trainer.pool.in_flight import Ticket
from trainer.pool.job_template import FREE, JobTemplate
from trainer.pool.line import Line
from trainer.pool.messages import Stall, grouped
from trainer.pool.own import LOCAL, Local, OwnPool, free_cores
from trainer.samples.batches import read_batch
from trainer.samples.reservoir import Numbers, Split
from trainer.samples.sources import Data, reservoir_of
from trainer.scores import Mode
from trainer.settings import Settings, asks_groups, refuse_tail_of
from trainer.snapshots.capture import Plan
from trainer.speaking import logger, speak_up
from trainer.stalls.detector import DeltaMode, StallDetector
from trainer.stalls.doubts import Doubts
from trainer.stalls.inspection import DRY_ROWS, Found, Inspector
from trainer.stalls.layers import AUTO, candidates, names_of
from trainer.stalls.radius import AdaptiveRadius
from trainer.stalls.turns import Turns
from trainer.story import ASKED_ANEW, LEFT_ALONE, NOT_JUDGED, PARTED, STRAYED, InForce
from trainer.watching import Watched, watched

CAPTURE_SHARE = 0.005
"""Of the time since the last stall, for the pass over the samples; as much again for the trial of what it leads to."""
LAST_CAPTURE_SHARE = 0.1
"""Of what is left for a last tunnel, for its pass."""
LEAST_CAPTURE_S = 0.02
POLISHES = 3
"""Jobs of the last tunnel, at least, each with a new seed: tries go on until one is adopted or the time is up."""
OBSERVE_SHARE = 0.005
"""Of all the time, for keeping samples: where it takes more, some epochs pass unseen."""
STATE = "gdsolver.tunneller/1"


class Tunneller:
    """Tunnels a model out of local minima with the help of a solver pool.

    Hand the loop's batches over with `watch(loader)` (or `observe(...)`), call `step(score)` after each epoch (or every
    few batches) and `close()` at the end. `step` never waits for the pool and uses no network. Module modes, random
    state, gradients and `requires_grad` are as before; until the first adoption a run is bit for bit what it would be
    without the tunneller. No copy of the model is ever made, and the background thread sees arrays alone.

    model, optimizer: what is trained, on any device. Only parameters that are trainable and in the optimizer move.
    validate: scores the model as it is, on data that it is not trained on; a number, or a dict with `monitor` as key.
    client: the pool; "local" starts one of its own on the cores that torch's threads leave free, until `close`.
    mode: whether lower ("min") or higher ("max") scores are better; may be left out where `monitor` says so.
    data: training samples in memory, (inputs, targets[, weights[, groups]]) as tensors or numpy arrays, instead of
        `watch` or `observe`.
    split: turns a batch into (args, kwargs, targets[, weights[, groups]]), where its form does not say; `groups` are
        whole numbers, for what compares groups of samples.
    screen: a cheap score of the same direction: the candidates for `validate` are chosen by it.
    layer: the linear layer to tunnel, by name or as a module; the final one by default.
        "auto": at every stall the policy chooses (dead units first, then each layer in turn), and the final layer
        follows a hidden one, if it may move.
        A network of at most 5,000 weights goes as a whole first, unless `radius` or `tail_radius` is given.
    tail: what follows a hidden `layer`, where that cannot be seen by watching it: layers by name or as modules,
        activations as modules.
    task: "classification", "binary" (one logit), "multilabel" or "regression"; None: by the targets, where they say.
    objective: what jobs minimise; ramp for classes and labels, mae for regression by default.
    constraints: what every answer has to keep on its samples, like RecallFloor(3, 0.75), or as in a job's spec.
    require: what the scores of an adopted model have to keep, like {"recall_3": 0.75} (at least) or "gap <= 0.1"; a
        model that keeps it is better than one that does not, whatever the score.
    ignore_index, class_weight: as in torch's cross entropy.
    radius: half-width of the box around the weights; None: the layer's mean |weight|, then adapted.
    tail_radius: how far the last of the layers behind a hidden block may move with it; None: as far as the block,
        0: not at all, and then the solver can prove how good its answer is.
    patience, min_delta, delta_mode, cooldown: when a stall is a stall (StallDetector); an answer, too, must gain
        `min_delta`.
    first_after: tunnel after so many checks for a first time, whether GD has stalled by then or not.
    time_s, samples: the budget of a job, and how many training samples it sees; while training is younger than
        `time_s`, jobs get as much time as training has had.
    keep, keep_mb: how many of the loop's samples are kept on the host, and the most bytes.
    capture_s: most seconds of a pass over the samples; None: 0.5 % of the time since the last stall.
    fanout: jobs per stall, with different radii, samples, margins and seeds, those first that have paid; "free": as
        many as the pool has idle workers, and while the score does not improve the next ones follow at once.
    sync: wait for the answer inside `step`, as the paper does; jobs get all of `time_s` then, and can be repeated.
    on_event: is told every event of `history` as it happens, on the training thread or the background thread.

    Raises CaptureError or DataError for what cannot be tunnelled, ValueError for a setting that makes no sense; each
    says what would work. What only shows in the first batch is said then.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: object,
        validate: Callable[[], Score],
        client: SolverClient | Local,
        mode: Mode | None = None,
        data: Data | None = None,
        split: Split | None = None,
        screen: Callable[[], float] | None = None,
        layer: str | nn.Module | None = None,
        tail: Sequence[str | nn.Module] | None = None,
        task: Task | None = None,
        objective: ObjectiveName | Objective | None = None,
        ignore_index: int = -100,
        class_weight: Sequence[float] | None = None,
        radius: float | None = None,
        tail_radius: float | None = None,
        monitor: str | None = None,
        require: Required = (),
        constraints: Sequence[Constraint | Mapping[str, Any]] = (),
        patience: int = 5,
        min_delta: float = 1e-4,
        delta_mode: DeltaMode = "abs",
        cooldown: int = 2,
        first_after: int | None = None,
        time_s: float = 10.0,
        samples: int = 1000,
        keep: int = 4000,
        keep_mb: float = 256.0,
        capture_s: float | None = None,
        fanout: int | Literal["free"] = 1,
        sync: bool = False,
        run: str | None = None,
        seed: int = 0,
        on_event: OnEvent | None = None,
    ) -> None:
        self._model, self._optimizer = unwrap(model), unwrap_optimizer(optimizer)
        asked = Settings(
            validate=validate,
            client=client,
            monitor=monitor,
            mode=mode,
            split=split,
            screen=screen,
            on_event=on_event,
            tail=tail,
            task=task,
            objective=objective,
            ignore_index=ignore_index,
            class_weight=class_weight,
            radius=radius,
            tail_radius=tail_radius,
            require=require,
            constraints=constraints,
            patience=patience,
            min_delta=min_delta,
            delta_mode=delta_mode,
            cooldown=cooldown,
            first_after=first_after,
            time_s=time_s,
            samples=samples,
            keep=keep,
            keep_mb=keep_mb,
            capture_s=capture_s,
            fanout=fanout,
            sync=sync,
            run=run,
            seed=seed,
        )
        mode = asked.mode or direction(monitor)
        if mode is None:
            raise ValueError("mode is missing; use 'min' if lower scores are better, 'max' if higher ones are")
        self._monitor, self._sync, self._capture_s = monitor, sync, asked.capture_s
        self._detector = StallDetector(asked.patience, asked.min_delta, asked.cooldown, mode, delta_mode)
        # A `split` says what the model takes.
        self._radius, self._turns, self._doubts = (
            AdaptiveRadius(asked.radius),
            Turns(),
            Doubts(self._model, split is None),
        )
        self._weights = Weights(self._model, self._optimizer)
        self._ranks, self._screen, self._trust = self._weights.ranks, screen, ScoreTrust()
        self._validator = Validator(self._model, validate, monitor, parse(require), self._ranks)
        self._movable = movable = Movable(self._model, self._optimizer)
        self._layers = candidates(self._model, movable(), layer)
        self._ranks.agree(self._model)
        self._auto, self._by_default = layer == AUTO, layer is None
        goal, kept = Objective(objective) if isinstance(objective, str) else objective, read_constraints(constraints)
        plan = Plan(
            task=task,
            tail=names_of(self._model, asked.tail),
            samples=asked.samples,
            ignore_index=asked.ignore_index,
            class_weight=None if asked.class_weight is None else tuple(asked.class_weight),
            asks_groups=asks_groups(goal, kept),
        )
        if plan.tail is not None:
            refuse_tail_of(layer)
            described(self._model, self._layers[0], plan.tail)  # a tail that no job can hold had better be named now
        self._template = JobTemplate(
            plan=plan,
            objective=goal,
            constraints=kept,
            tail_radius=asked.tail_radius,
            whole=radius is None and tail_radius is None,
            time_s=asked.time_s,
            fanout=asked.fanout,
            run=asked.run or f"run-{uuid.uuid4().hex[:12]}",
            seed=asked.seed,
        )
        self._stalls, self._closed, self._checked, self._resting, self._strayed = 0, False, False, False, False
        self._lost: Sequence[Ticket] = ()
        self._first_after, self._last_radius = asked.first_after, asked.radius
        self._reservoir = reservoir_of(data, split, keep=asked.keep, keep_mb=asked.keep_mb, seed=asked.seed)
        if data is not None and self._ranks.leads and not self._reservoir.size:
            raise DataError("data holds no samples; give at least one, or leave it out and use tunneller.watch(loader)")
        with ExitStack() as undo:  # a tunneller that is not made leaves no thread, hook or pool behind
            self._journal = Journal(self._optimizer, on_event)
            undo.callback(self._journal.close)
            # With `sync` nothing may depend on the clock.
            self._line, self._habits = Line(asked.time_s, adaptive=not sync), Habits(movable, self._journal, kept)
            self._inspector = Inspector(
                self._model,
                movable,
                self._reservoir,
                self._template,
                self._journal,
                self._radius,
                self._turns,
                self._line,
                auto=self._auto,
                doubts=self._doubts,
            )
            self._last_stall = time.monotonic()
            speak_up()
            self._pool = self._own_pool() if client == LOCAL and self._ranks.leads else None
            if self._pool is not None:
                undo.callback(self._pool.close)
            # Where another rank leads, a client that is never asked.
            pool = SolverClient() if client == LOCAL else client
            pool = self._pool.client if self._pool else pool
            self._worker = BackgroundWorker(pool, self._template, self._journal, self._line)
            undo.callback(self._worker.close, timeout=5.0)
            threshold = Threshold(mode, asked.min_delta, delta_mode)
            self._adopter = Adopter(
                Court(self._weights, movable, self._habits, self._validator, threshold, screen, kept),
                self._turns,
                self._radius,
                self._journal,
                self._worker,
                monitor,
                exact=self._template.on_weights,
            )
            self.plan = "no samples were seen yet"
            if self._ranks.leads:
                if data is not None:
                    self._check()
                self._worker.look_at_pool()
            undo.pop_all()
        weakref.finalize(self, _abandoned, self._worker, self._journal).atexit = False

    def _own_pool(self) -> OwnPool:
        workers = free_cores(torch.get_num_threads() if device_of(self._model).type == "cpu" else 1)
        pool = OwnPool(workers)
        logger.info("a pool of its own with %d worker%s runs at %s", workers, "s"[: workers - 1], pool.client.url)
        return pool

    @property
    def run(self) -> str:
        """The name under which the pool lists the jobs."""
        return self._template.run

    # --- samples ------------------------------------------------------------------------------------------------------

    def watch(self, loader: Iterable[Any]) -> Watched:
        """The loader's batches, untouched; a bounded sample of them is kept for the next stall."""
        self._validator.loader = loader
        return watched(loader, partial(self._begin, loader), self._seen)

    def _begin(self, loader: object) -> None:
        self._rest_or_not()
        if not self._resting:
            self._reservoir.begin(loader)

    def _seen(self, batch: Any) -> None:
        """Keep some of a batch that is handed to the loop, and look whether the model is given what it holds."""
        self._doubts.given.end()
        self._observe(batch)
        if self._ranks.leads and not self._closed:
            self._doubts.given.begin(partial(read_batch, batch))

    def _rest_or_not(self) -> None:
        """Keep no new samples until the next check while that has taken more than its share of the time.

        Not with `sync`: there, which samples are kept must not depend on the clock.
        """
        dear = self._journal.observe_s > OBSERVE_SHARE * self._journal.age_s
        self._resting = dear and self._reservoir.is_enough and not self._sync

    def observe(self, *batch: Any, index: Numbers | None = None) -> None:
        """Keep a bounded sample of one batch: `observe(inputs, targets)`, or the batch as the loader yields it.

        `index` [n]: each sample's number in your data set, by which `suspects` names it; where there is a `split`, a
        number for each sample that it gives.
        """
        self._observe(batch[0] if len(batch) == 1 else batch, index)

    def _observe(self, batch: Any, index: Numbers | None = None) -> None:
        if self._closed or self._resting or not self._ranks.leads:
            return
        begun = time.perf_counter()
        try:
            self._reservoir.observe(batch, index)
        except Exception as error:  # whatever the loader yields by then: training goes on
            if not self._checked or interrupts(error):
                raise
            told = str(error) if isinstance(error, TrainerError) else f"{type(error).__name__}: {error}"
            self._worker.warn(f"a batch was left out: {told}")
            logger.debug("a batch was left out", exc_info=error)
        self._journal.observe_s += time.perf_counter() - begun
        if not self._checked and self._reservoir.size:
            self._check()

    def _check(self) -> None:
        """The dry run on the first samples: say what will be tunnelled; what the caller got wrong is raised."""
        self._checked = True
        try:
            self._layers, self.plan = self._inspector.begin(self._layers, by_default=self._by_default)
        except NothingCountsError:
            self._checked = False  # the next batch may say more
        except CaptureError as error:
            if isinstance(error, FinalLayerError):
                self._layers = (error.layer,)  # no other is tunnelled in its stead
                if error.always:
                    raise
            self.plan = f"nothing can be tunnelled: {error}"
            self._worker.warn(self.plan)
        else:
            self._habits.begin(self._layers)
            logger.info("%s", self.plan)

    # --- the loop's calls ---------------------------------------------------------------------------------------------

    def step(self, score: Score) -> bool:
        """Take the newest score; adopt what has arrived if it helps, or have a stall solved. True if adopted."""
        begun = time.perf_counter()
        self._doubts.given.end()
        try:
            return self._led(lambda: self._step(read_score(score, self._monitor)))
        finally:
            self._journal.longest_step_s = max(self._journal.longest_step_s, time.perf_counter() - begun)

    def _led(self, decide: Callable[[], bool]) -> bool:
        """Decide on rank zero, and on the others do what it does; True if an answer was adopted."""
        if not self._ranks.leads:
            follow = self._validator.follow
            return self._weights.follow({"validate": partial(follow, None), "screen": partial(follow, self._screen)})
        try:
            return decide()
        finally:
            self._ranks.tell("done")

    def _step(self, score: float) -> bool:
        self._journal.step += 1
        self._journal.note(score, self._detector.mode)
        self._adopter.standing.check()
        self._reservoir.mark()
        self._rest_or_not()
        if self._journal.step == 1 and not self._closed:
            self._trust.compare(score, self._validator.first(score))  # a validation that fails had better fail now
        if self._is_idle():
            self._detector.update(score)
            return False
        if again := bool(self._lost and self._reservoir.size and not self._closed):
            self._find_again()
        asked = again and not self._sync  # what was out is looked at in the next step, however soon it is there
        adopted = self._adopt_all(math.inf, score) if self._sync else not asked and self._adopt_arrived(score)
        stalled = self._detector.update(score) or self._journal.step == self._first_after
        stalled = stalled or (self._template.fanout == FREE and self._detector.stalled)
        if stalled and self._stalls == 0 and self._detector.backwards and direction(self._monitor) is None:
            other = "max" if self._detector.mode == "min" else "min"
            told = f"the score went from {self._detector.best:.6g} to {score:.6g}, which mode={self._detector.mode!r}"
            logger.warning("%s calls worse: is mode=%r meant?", told, other)
        if stalled and not adopted and not asked and not self._closed and self._worker.idle.is_set():
            self._launch()
            if self._sync:
                adopted = self._adopt_all(math.inf, score)
        return adopted

    def _is_idle(self) -> bool:
        """Whether nothing may be adopted by now: another optimizer trains the model, or its own overwrites answers."""
        strays = self._strays()
        if not (strays or self._adopter.standing.overwritten):
            return False
        why = STRAYED if strays else LEFT_ALONE
        self._worker.abandon(why)
        self._adopter.set_aside(self._worker.arrived(), why)
        return True

    def _strays(self) -> bool:
        """Whether another optimizer trains the model by now: nobody knows what may move."""
        other = self._journal.strays()
        if other is None:
            return False
        if not self._strayed:
            logger.warning(
                "the model is trained by another optimizer (%s) while the Tunneller's own stands still: nothing is "
                "tunnelled until that steps again, or the new one is handed over by tunneller.use_optimizer(optimizer)",
                type(other).__name__,
            )
        self._strayed = True
        return True

    def use_optimizer(self, optimizer: object) -> None:
        """Another optimizer trains the model from now on: its steps count, and only what it holds may move.

        On every rank. Raises OptimizerError for what is none.
        """
        found = unwrap_optimizer(optimizer)
        self._optimizer = self._movable.optimizer = self._weights.optimizer = found
        self._adopter.standing.begin_anew()
        if not self._closed:
            self._journal.close()
            self._journal.follow(found)

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary:
        """End: adopt what has arrived, cancel what is still out, and sum up; with `polish`, tunnel once more first.

        Waits at most about `timeout` seconds for the polish, and a few more for the pool to be told. Where a stall is
        one or two jobs, the polish is tried again until an answer is adopted or three were sent (not with `sync`).
        """
        self._doubts.given.end()
        if not self._closed:
            self._led(lambda: self._finish(timeout if polish else None))
            self._end(timeout)
        return self.summary()

    def _finish(self, polish_s: float | None) -> bool:
        self._adopter.standing.check()
        if self._is_idle():
            return False
        adopted = self._adopt_arrived(None, follow=False)
        return adopted if polish_s is None else self._polish(polish_s) or adopted

    def _end(self, timeout: float) -> None:
        self._closed = True
        self._doubts.given.end()
        self._worker.close(timeout=min(timeout, 5.0))
        self._adopter.set_aside(self._worker.arrived(), NOT_JUDGED)
        if self._pool is not None:
            self._pool.close()
        self._journal.close()

    def _polish(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        self._worker.abandon(ASKED_ANEW)
        if not self._worker.idle.wait(timeout):
            return False
        self._adopter.set_aside(self._worker.arrived(), ASKED_ANEW)
        known = len(self.history)
        for number in range(1 if self._sync else POLISHES):
            began = time.monotonic()
            if not self._launch(last=True, left_s=until - began):
                break
            if self._adopt_all(until, None, follow=number == 0):
                return True
            ended, sent = time.monotonic(), [one for one in self.history[known:] if one.kind == "submitted"]
            if self.pool_lost or len(sent) >= POLISHES or until - ended < ended - began:
                break
        return False

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise TypeError with what to copy instead: a copy would have no model that anybody trains."""
        raise TypeError(
            "a Tunneller cannot be copied or pickled, nor what holds one: it goes with one model, a thread and hooks; "
            "leave it out of what is copied, keep its state_dict(), and make a new one for another model"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close; while an exception unwinds, the model is left as it is."""
        if error is None:
            self.close()
        elif not self._closed:
            self._end(5.0)

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._closed

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
        mode, required = self._detector.mode, self._validator.requires
        settings = InForce(self._auto, self._last_radius, self._template.time_s, mode, required, self._doubts.hint)
        seconds, calls = self._validator.seconds, self._validator.calls
        figures = self._journal.summary(seconds, calls, settings, alike=self._trust.alike)
        return dataclasses.replace(figures, line=self._line.told())

    def suspects(self) -> list[Suspicion]:
        """The samples that answers give up on, what most of them name first: look at their labels."""
        return self._adopter.suspicions.found()

    def report(self, path: str | Path) -> Path:
        """Draw gains by stall and layer, jobs over time, and where the time went, into a PNG, SVG or PDF file."""
        from trainer.picture import draw  # noqa: PLC0415  (matplotlib takes a second to load)

        return draw(self.history, self.summary(), self._detector.mode, path)

    def explain(self) -> Explanation:
        """What can be tunnelled, layer by layer, and why not where not; with samples, which units are dead."""
        layers = self._inspector.eligible()
        names = [name for name, found in layers.items() if found.why is None]
        seen = self._inspector.look(names, self._stalls, most=DRY_ROWS) if self._reservoir.size and names else None
        return explain(layers, seen, self._turns.distrusted)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: patience, radii, turns, counters, and which jobs are out; not the samples."""
        return {
            "format": STATE,
            "run": self.run,
            "detector": self._detector.state_dict(),
            "reservoir": self._reservoir.state_dict(),
            "radii": dict(self._radius.scales),
            "portfolio": self._worker.portfolio.state_dict(),
            "failures": dict(self._turns.failures),
            "distrusted": dict(self._turns.distrusted),
            "stalls": self._stalls,
            "jobs": [ticket.state_dict() for ticket in (*self._lost, *self._worker.tickets())],
            "step": self._journal.step,
            "gd_step": self._journal.gd_step,
            "age_s": self._journal.age_s,
            "course": self._journal.course.state_dict() if self._journal.course else None,
            "events": list(map(as_state, self.history)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken; ValueError for what is not one.

        Jobs that were out then are asked after at the next `step()` that has samples; their answers are judged as all.
        """
        given = state.get("format") if isinstance(state, Mapping) else f"of a {type(state).__name__}"
        if given != STATE:
            raise ValueError(f"state has format {given!r}; use what Tunneller.state_dict() gave ({STATE})")
        try:
            self._take_up(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state is not whole ({type(error).__name__}: {error}); use what Tunneller.state_dict() gave ({STATE})"
            ) from error

    def _take_up(self, state: Mapping[str, Any]) -> None:
        scales, failures, distrusted = (dict(state[name]) for name in ("radii", "failures", "distrusted"))
        stalls, step, gd_step = (int(state[name]) for name in ("stalls", "step", "gd_step"))
        lost = [Ticket.from_state(ticket) for ticket in state.get("jobs", [])]
        events, age_s = list(map(of_state, state.get("events", []))), float(state.get("age_s", 0.0))
        template = self._template.renamed(state["run"])
        course = Course.of_state(state["course"]) if state.get("course") else None  # older releases wrote none
        if "reservoir" in state:  # older releases wrote none
            self._reservoir.load_state_dict(state["reservoir"])
        self._detector.load_state_dict(state["detector"])
        self._worker.portfolio.load_state_dict(state["portfolio"])
        self._template = self._worker.template = template
        self._radius.scales = scales
        self._turns.failures, self._turns.distrusted = failures, distrusted
        self._stalls, self._lost = stalls, lost
        self._journal.step, self._journal.gd_step = step, gd_step
        self._journal.resume(events, age_s, course)

    # --- from stall to verdict ----------------------------------------------------------------------------------------

    def _launch(self, *, final: str | None = None, last: bool = False, left_s: float = math.inf) -> bool:
        """Pass the kept samples through the live model once, choose a layer, and hand arrays to the background.

        The `final` layer, by name, or any of them. False if there is nothing to hand.
        """
        self._stalls += 1
        if self._weights.differ():
            self._journal.add("failed", self._stalls, detail=PARTED)
            return False
        self._habits.look_again()
        budget_s = self._budget()
        if last and self._capture_s is None:  # nothing else waits by then
            budget_s = max(budget_s, LAST_CAPTURE_SHARE * left_s)
        self._last_stall = time.monotonic()
        try:
            self._look_for_layers()
            layers = self._layers if final is None else (final,)
            found = self._inspector.inspect(layers, self._stalls, budget_s=budget_s, last=last)
        except Exception as error:  # whatever it is: training goes on
            if interrupts(error):
                raise
            told = str(error) if isinstance(error, TrainerError) else f"{type(error).__name__}: {error}"
            self._journal.add("failed", self._stalls, detail=f"no snapshot: {told}")
            if not self._movable.kept:  # of which a warning has told
                self._worker.warn(f"no snapshot: {told}")
            logger.debug("no snapshot", exc_info=error)
            return False
        if kept := self._habits.look(found.captured.block.parameters().values(), reached=found.reached):
            told = "; ".join(f"layer {name!r} is left alone: {why}" for name, why in kept.items())
            self._journal.add("failed", self._stalls, detail=told)
            goes_on = final is None and (self._auto or found.view.name not in kept)
            return goes_on and self._launch(last=last, left_s=left_s)
        kind: Kind = "polish" if last else "stall"
        self._journal.add(kind, self._stalls, seconds=found.seconds, detail=f"{found.samples} samples")
        radius = self._radius.value(found.view.name, found.captured.weight_size)
        self._last_radius = None if found.view.whole else radius
        step, gd_step = self._journal.step, self._journal.gd_step
        self._worker.launch(self._stall(found, self._stalls, step, gd_step, radius, last=last, left_s=left_s))
        return True

    def _look_for_layers(self) -> None:
        """With "auto", those that may move by now: a loop may free layers, freeze some, or put others in."""
        free = self._inspector.free()
        if self._auto and self._checked and free and set(free) != set(self._layers):
            self._layers, self.plan = self._inspector.begin(free, by_default=False)
            logger.info("other layers may move by now: %s", self.plan)

    def _stall(
        self,
        found: Found,
        number: int,
        step: int,
        gd_step: int,
        radius: float,
        *,
        last: bool = False,
        left_s: float = math.inf,
    ) -> Stall:
        """What the background worker is handed: arrays and figures."""
        captured = found.captured
        return Stall(
            number=number,
            step=step,
            gd_step=gd_step,
            # A job's time counts in its idempotency key: with `sync` it must not depend on the clock.
            age_s=math.inf if self._sync else self._journal.age_s,
            captured=captured,
            view=found.view,
            start=parameters.read(self._model, captured.block.parameters().values()),
            radius=radius,
            last=last,
            left_s=left_s,
        )

    def _find_again(self) -> None:
        """Wait for the jobs that were out when the state was taken, with their layers as they are now."""
        lost, self._lost = self._lost, ()
        for number, group in itertools.groupby(lost, key=lambda ticket: ticket.stall):
            tickets = list(group)
            first = tickets[0]
            try:
                found = self._inspector.again(first.layer, first.turn, number, budget_s=self._budget())
                stall = self._stall(found, number, first.step, first.gd_step, first.radius)
            except Exception as error:  # whatever it is: training goes on
                if interrupts(error):
                    raise
                for ticket in tickets:
                    self._worker.forget(ticket, f"its layer is another one now: {error}")
                logger.debug("not found again", exc_info=error)
            else:
                self._worker.find_again(stall, tickets)

    def _budget(self) -> float:
        """Seconds for a pass over the samples; with `sync` as many as it takes, so that a run can be repeated."""
        if self._sync:
            return math.inf
        if self._capture_s is not None:
            return self._capture_s
        return max(LEAST_CAPTURE_S, CAPTURE_SHARE * (time.monotonic() - self._last_stall))

    def _adopt_arrived(self, score: float | None, *, follow: bool = True, until: float = math.inf) -> bool:
        """Decide on every answer that is there; True if one is adopted.

        The final layer follows a hidden one, if it may move and there is time for it `until` then (monotonic seconds).
        `score` is the model's as the loop gave it, None where it is not known.
        """
        answers, adopted = self._worker.arrived(), False
        for together in grouped(answers):
            self._validator.given = score
            known = None if score is None or self._validator.requires else self._trust.use(score)
            decisions = self._adopter.consider(together, known, self._budget())
            before = next((decision.before for decision in decisions if decision.before is not None), None)
            if score is not None and before is not None and (known is None or before != known):
                self._trust.compare(score, before)
            if any(decision.accepted for decision in decisions):
                adopted, score = True, None
        if adopted:
            self._detector.rest()
        hidden = [answer.stall for answer in answers if answer.stall.view.hidden and not answer.stall.view.whole]
        left_s = until - time.monotonic()
        if follow and self._auto and hidden and left_s > 0 and self._worker.idle.is_set():
            final = self._inspector.final(self._layers)
            if final is not None:  # which is not hidden: nothing follows what follows
                self._launch(final=final, last=hidden[-1].last, left_s=left_s)
        return adopted

    def _adopt_all(self, until: float, score: float | None, *, follow: bool = True) -> bool:
        """Wait for all that is out, and for what follows it, but not beyond `until` (monotonic seconds)."""
        adopted = False
        while True:
            left = until - time.monotonic()
            in_time = self._worker.idle.wait(None if left == math.inf else max(0.0, left))
            launched = self._stalls
            adopted |= self._adopt_arrived(None if adopted else score, follow=follow, until=until)
            if not in_time or self._stalls == launched:  # an answer to what followed may be there already
                return adopted


def _abandoned(worker: BackgroundWorker, journal: Journal) -> None:
    """End the thread and the hooks on the optimizer of a tunneller that nobody closed and nobody holds any more."""
    journal.close()
    with suppress(RuntimeError):  # the garbage collector may run on that thread, which cannot wait for itself
        worker.close(timeout=0.0)
