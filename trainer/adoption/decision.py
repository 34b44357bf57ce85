"""Decides on one answer: screened on the kept samples, judged by at most two validations, adopted if it helps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from shared.objectives import Objective
from trainer.adoption import parameters
from trainer.adoption.candidates import MergeCandidate, Values, merge_candidates
from trainer.adoption.validation import Validator
from trainer.snapshots.capture import Captured, try_out
from trainer.stalls.detector import DeltaMode, Mode, improvement, least_gain
from trainer.story import MOVED_ON

MOST_VALIDATIONS = 2


@dataclass(frozen=True)
class Threshold:
    """What counts as help: the direction of the score, and the least gain."""

    mode: Mode
    min_delta: float
    delta_mode: DeltaMode

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is; 0 or less if that is not enough."""
        gained = improvement(before, after, self.mode)
        return gained if gained >= least_gain(self.min_delta, self.delta_mode, before) else min(gained, 0.0)


@dataclass(frozen=True)
class Decision:
    """What became of an answer: `refused` says why the model did not do what the job promised, if it did not."""

    accepted: bool
    way: str | None = None
    before: float | None = None
    after: float | None = None
    refused: str | None = None
    detail: str | None = None
    deaf: bool = False
    """Whether the score stayed the same to the last digit although the model's outputs had changed."""


@dataclass(frozen=True, eq=False)
class Court:
    """Everything that decisions of one tunneller have in common."""

    model: nn.Module
    optimizer: Optimizer
    validator: Validator
    threshold: Threshold
    screen: Callable[[], float] | None = None

    def decide(
        self,
        captured: Captured,
        objective: Objective,
        start: Values,
        answer: Values,
        *,
        known: float | None,
        budget_s: float,
    ) -> Decision:
        """Try an answer's merge candidates in the live model, and keep one that helps; else put every bit back.

        `known` is the score of the model as it is, where it is known. The candidate that does best on the kept samples
        is validated first, then the next; none that does worse there than the model as it is.
        """
        current = parameters.read(self.model, answer)
        offered = list(merge_candidates(current, start, answer))
        now, trials = try_out(
            self.model, captured, objective, [candidate.values for candidate in offered], budget_s=budget_s
        )
        honest = [(trial.value, offer) for trial, offer in zip(trials, offered, strict=True) if trial.why is None]
        if not honest:
            return Decision(accepted=False, refused=next(trial.why for trial in trials if trial.why is not None))
        ranked = sorted([(value, offer) for value, offer in honest if value < now], key=lambda pair: pair[0])
        if not ranked:
            return Decision(accepted=False, detail=MOVED_ON)
        chosen = self._screened([offer for _, offer in ranked])[:MOST_VALIDATIONS]
        return self._validated(chosen, known)

    def _screened(self, offers: list[MergeCandidate]) -> list[MergeCandidate]:
        """The candidates in the order of the user's own cheap score, where there is one."""
        if self.screen is None:
            return offers
        sign = 1.0 if self.threshold.mode == "max" else -1.0
        return sorted(offers, key=lambda offer: -sign * self._with(offer, self.screen))

    def _validated(self, offers: list[MergeCandidate], known: float | None) -> Decision:
        """Adopt the first that validation confirms; without a known score the first is all there is time for."""
        before = self.validator.score() if known is None else known
        best: tuple[float, MergeCandidate] | None = None
        for offer in offers[: MOST_VALIDATIONS - (known is None)]:
            after = self._with(offer, None)
            if self.threshold.gain(before, after) > 0:
                parameters.write(self.model, offer.values)
                parameters.forget(self.model, self.optimizer, offer.values)
                return Decision(accepted=True, way=offer.name, before=before, after=after)
            if best is None or improvement(best[0], after, self.threshold.mode) > 0:
                best = after, offer
        assert best is not None
        after, offer = best
        deaf = after == before and math.isfinite(after)
        return Decision(accepted=False, way=offer.name, before=before, after=after, deaf=deaf)

    def _with(self, offer: MergeCandidate, screen: Callable[[], float] | None) -> float:
        """The score with a candidate written in; the model is as before afterwards, whatever happens."""
        with parameters.put_back(self.model, offer.values):
            parameters.write(self.model, offer.values)
            return self.validator.score() if screen is None else self.validator.quick(screen)
