"""Decides on answers: screened on the kept samples, judged by two validations each at most, one adopted if it helps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from shared.contracts import Constraint
from shared.objectives import Objective
from trainer.adoption import parameters
from trainer.adoption.candidates import MergeCandidate, merge_candidates
from trainer.adoption.chance import is_beyond_chance
from trainer.adoption.left_alone import Habits
from trainer.adoption.ranks import Weights
from trainer.adoption.standing import Change
from trainer.adoption.validation import Judgement, Validator, pooled
from trainer.errors import interrupts
from trainer.model.blocks import Values
from trainer.model.eligibility import Eligibility
from trainer.scores import Mode, improvement
from trainer.snapshots.capture import Captured, try_out
from trainer.snapshots.keeping import broken
from trainer.stalls.detector import DeltaMode, least_gain
from trainer.story import ANOTHER, MOVED_ON, no_score

Found = TypeVar("Found")
MOST_VALIDATIONS = 2
"""For each answer, that of the model as it is included; further ones where scores are a matter of chance."""
OTHERS = "the model has other parameters now than at the stall"
NO_MORE_THAN_CHANCE = "its gain on validation is no more than chance, by several draws"
NOT_KEPT = "once written into the model, its weights do not keep"


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
    change: Change | None = None
    """Of an adoption."""


@dataclass(frozen=True, eq=False)
class Case:
    """One answer: what was captured, the block's parameters then, and the answer's; `exact`: only as it is."""

    captured: Captured
    start: Values
    answer: Values
    exact: bool = False


def _immovable(case: Case, layers: Mapping[str, Eligibility]) -> Decision | None:
    """A rejection where a layer of the answer may not move by now; it may again, and be tunnelled then."""
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in case.answer):
        if layer in layers and (why := layers[layer].why) is not None:
            return Decision(accepted=False, detail=f"layer {layer!r} may not move by now: {why}")
    return None


def _why_not(before: Judgement, after: Judgement) -> str | None:
    """The reason of a rejection where it is another than that the score is no better."""
    if not math.isfinite(after.score):
        return no_score(after.score)
    if after.broken:
        return f"does not keep {', '.join(after.broken)}"
    return None if math.isfinite(before.score) else no_score(before.score)


@dataclass(frozen=True, eq=False)
class _Offer:
    """A merge candidate of the answer with this number, and its objective on the kept samples."""

    case: int
    candidate: MergeCandidate
    value: float


@dataclass(frozen=True, eq=False)
class _Trial:
    """What validation said of the model as it is, and with a candidate; `detail` says why that does not help."""

    offer: _Offer
    before: Judgement
    after: Judgement
    helps: bool
    detail: str | None = None

    def decision(self, change: Change | None = None) -> Decision:
        """The adoption that made this change, or a rejection."""
        before, after = self.before.score, self.after.score
        detail = None if change is not None else _why_not(self.before, self.after) or self.detail
        return Decision(
            accepted=change is not None,
            way=self.offer.candidate.name,
            before=before,
            after=after,
            detail=detail,
            deaf=change is None and after == before and math.isfinite(after),
            change=change,
        )


@dataclass(frozen=True, eq=False)
class Court:
    """Everything that decisions of one tunneller have in common.

    Every answer keeps the `constraints` on weights, and moves only what may move by now, as `movable` says.
    """

    weights: Weights
    movable: Callable[[], Mapping[str, Eligibility]]
    habits: Habits
    validator: Validator
    threshold: Threshold
    screen: Callable[[], float] | None = None
    constraints: Sequence[Constraint] = ()

    def decide(
        self,
        cases: Sequence[Case],
        objective: Objective,
        *,
        known: float | None,
        budget_s: float,
        sparing: bool = False,
    ) -> list[Decision]:
        """Try the merge candidates of answers to one stall in the live model, and keep the one that helps, if any.

        `known` is what the loop says the score of the model as it is were, if that is to be believed at first. The
        candidate that does best on the kept samples is validated first, then, of several answers and unless `sparing`,
        the next; none that does worse there than the model as it is. At most one answer is adopted, and only once the
        model as it is was validated, too; otherwise every bit is put back.
        """
        offers, refused = list[_Offer](), dict[int, Decision]()
        self.habits.look(dict.fromkeys(name for case in cases for name in case.answer))
        layers = self.movable()
        for number, case in enumerate(cases):
            found = _immovable(case, layers) or self._offers(number, case, objective, budget_s / len(cases))
            if isinstance(found, Decision):
                refused[number] = found
            else:
                offers += found
        most = MOST_VALIDATIONS * (1 if sparing else len(cases))
        verdict = self._validated(self._screened(self._ranked(offers)), known, most) if offers else None
        return [self._told(number, refused, offers, verdict) for number in range(len(cases))]

    def _offers(self, number: int, case: Case, objective: Objective, budget_s: float) -> list[_Offer] | Decision:
        """The candidates of one answer that are better on the kept samples than the model as it is.

        Where something has to be kept, the objective is not all that counts: then all of them. None that breaks a
        constraint on weights as it would stand in the model. A decision says why there are none: that, or the live
        model does not do what the job promised, or is another one by now.
        """
        current = parameters.read(self.weights.model, case.answer)
        if any(name not in current or current[name].shape != values.shape for name, values in case.answer.items()):
            return Decision(accepted=False, detail=OTHERS)
        candidates = [MergeCandidate("block", case.answer)] if case.exact else None
        candidates = candidates or list(merge_candidates(current, case.start, case.answer))
        model, kept = self.weights.model, self.constraints
        faults = [broken(kept, case.captured, model, candidate.values) for candidate in candidates]
        candidates = [candidate for candidate, fault in zip(candidates, faults, strict=True) if not fault]
        if not candidates:
            return Decision(accepted=False, detail=f"{NOT_KEPT} {', '.join(faults[0])}")
        values = [candidate.values for candidate in candidates]
        try:
            now, trials = try_out(self.weights.model, case.captured, objective, values, budget_s=budget_s)
        except Exception as error:  # the model cannot be run as it was at the stall: training goes on
            if interrupts(error):
                raise
            return Decision(accepted=False, detail=f"{type(error).__name__}: {error}")
        honest = [
            _Offer(number, candidate, trial.value)
            for trial, candidate in zip(trials, candidates, strict=True)
            if trial.why is None
        ]
        if not honest:
            return Decision(accepted=False, refused=next(trial.why for trial in trials if trial.why is not None))
        return [offer for offer in honest if self.validator.requires or offer.value < now]

    def _ranked(self, offers: list[_Offer]) -> list[_Offer]:
        return offers if self.validator.requires else sorted(offers, key=lambda offer: offer.value)

    def _screened(self, offers: list[_Offer]) -> list[_Offer]:
        """The candidates in the order of the user's own cheap score, where there is one."""
        if self.screen is None:
            return offers
        sign, screen = (
            1.0 if self.threshold.mode == "max" else -1.0,
            partial(self.validator.quick, self.screen, "screen"),
        )
        return sorted(offers, key=lambda offer: -sign * self._with(offer.candidate, screen))

    def _told(
        self, number: int, refused: dict[int, Decision], offers: list[_Offer], verdict: tuple[int, Decision] | None
    ) -> Decision:
        """What became of one answer."""
        if number in refused:
            return refused[number]
        if verdict is not None and verdict[0] == number:
            return verdict[1]
        if any(offer.case == number for offer in offers):
            return Decision(accepted=False, detail=ANOTHER)
        return Decision(accepted=False, detail=MOVED_ON)

    def _validated(self, offers: list[_Offer], known: float | None, most: int) -> tuple[int, Decision]:
        """Adopt the first that validation confirms, in at most so many validations.

        In some more where scores are a matter of chance. With the number of the answer that the decision is about.
        """
        known = None if self.validator.by_chance else known
        before, certain = (self.validator.judge(), True) if known is None else (Judgement(known), False)
        tried: list[_Trial] = []
        for offer in offers[: most - 1]:  # one is for the model as it is
            after = self._with(offer.candidate, self.validator.judge)
            if not certain and self._helps(before, after):  # what the loop said may be of an earlier epoch
                before, certain = self.validator.judge(), True
            trial = _Trial(offer, before, after, self._helps(before, after))
            if trial.helps and self.validator.is_by_chance(before.score):
                trial = self._on_several_draws(offer)
            if trial.helps:
                return offer.case, trial.decision(change=self.weights.adopt(offer.candidate.values))
            tried.append(trial)
        sign = 1.0 if self.threshold.mode == "max" else -1.0
        best = max(tried, key=lambda one: -math.inf if math.isnan(one.after.score) else sign * one.after.score)
        return best.offer.case, best.decision()

    def _on_several_draws(self, offer: _Offer) -> _Trial:
        """Judge the model as it is and with a candidate on the same random numbers, so that these cancel out."""
        draws, mode = self.validator.draws(), self.threshold.mode
        before = [self.validator.judge(draw) for draw in draws]
        after = self._with(offer.candidate, lambda: [self.validator.judge(draw) for draw in draws])
        found = pooled(before, every=True), pooled(after, every=False)
        helps = self._helps(*found)
        gains = [improvement(one.score, other.score, mode) for one, other in zip(before, after, strict=True)]
        if helps and not found[0].broken and not is_beyond_chance(gains):
            return _Trial(offer, *found, helps=False, detail=NO_MORE_THAN_CHANCE)
        return _Trial(offer, *found, helps=helps)

    def _helps(self, before: Judgement, after: Judgement) -> bool:
        """What is required comes first: a model that keeps it is better than one that does not, whatever the score."""
        if after.broken:
            return False
        return bool(before.broken) or self.threshold.gain(before.score, after.score) > 0

    def _with(self, offer: MergeCandidate, judge: Callable[[], Found]) -> Found:
        """What is found with a candidate written in; the model is as before afterwards, whatever happens."""
        with self.weights.tried(offer.values):
            return judge()
