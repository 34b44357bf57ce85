"""What follows an answer: it is decided on, learned from, noted down, and the pool is told."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.contracts import Feedback
from trainer.adoption.decision import Case, Court, Decision
from trainer.adoption.standing import Standing
from trainer.adoption.suspicions import Suspicions
from trainer.errors import CaptureError
from trainer.events import Kind
from trainer.journal import Journal
from trainer.pool.background import BackgroundWorker
from trainer.pool.messages import Answer, Verdict
from trainer.pool.portfolio import Variation
from trainer.speaking import logger
from trainer.stalls.radius import AdaptiveRadius
from trainer.stalls.turns import Turns
from trainer.story import NOTHING_BETTER, PARTED

DEAF = 3
"""Scores in a row that did not hear the weights: one or two may be chance where a score counts a few samples."""

VALIDATION_SHARE = 0.01
"""Of all the time: where validations have taken more, an answer's second candidate is not validated."""


@dataclass
class Adopter:
    """Deals with the answers of one tunneller; `monitor` is the name of the score.

    `exact` says that answers keep constraints on their weights, which parts of them would not keep.
    """

    court: Court
    turns: Turns
    radius: AdaptiveRadius
    journal: Journal
    worker: BackgroundWorker
    monitor: str | None
    exact: bool = False
    suspicions: Suspicions = field(default_factory=Suspicions)
    standing: Standing = field(init=False)
    _deaf: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.standing = Standing(self.court.weights.model, self.journal, self.court.habits)

    def consider(self, answers: Sequence[Answer], known: float | None, budget_s: float) -> list[Decision]:
        """Adopt one of the answers to a stall, if it helps; `known` is the score of the model as it is, where known.

        None while the ranks' models differ.
        """
        if self.court.weights.differ():
            return self.set_aside(answers, PARTED)
        begun, validated = time.perf_counter(), self.court.validator.seconds
        decisions = [self._without_trial(answer) for answer in answers]
        open_cases = [answer for answer, decision in zip(answers, decisions, strict=True) if decision is None]
        tried = iter(self._tried(open_cases, known, budget_s) if open_cases else [])
        found = [next(tried) if decision is None else decision for decision in decisions]
        self.journal.trial_s += time.perf_counter() - begun - (self.court.validator.seconds - validated)
        for answer, decision in zip(answers, found, strict=True):
            self._learn(answer, decision)
            if decision.refused is None:
                self.suspicions.note(answer)
            self._conclude(answer, decision)
        return found

    def set_aside(self, answers: Sequence[Answer], why: str) -> list[Decision]:
        """Leave answers untried, and say why."""
        decision = Decision(accepted=False, detail=why)
        for answer in answers:
            self._conclude(answer, decision)
        return [decision] * len(answers)

    def _without_trial(self, answer: Answer) -> Decision | None:
        """What is plain to see; None where the model has to be asked."""
        if not answer.result.improved:
            return Decision(accepted=False, detail=NOTHING_BETTER)
        if (why := self.turns.distrusted.get(answer.stall.view.name)) is not None:
            return Decision(accepted=False, refused=why)
        return None

    def _tried(self, answers: Sequence[Answer], known: float | None, budget_s: float) -> list[Decision]:
        first = answers[0].stall
        cases = [Case(answer.captured, first.start, answer.parameters, exact=self.exact) for answer in answers]
        goal = self.worker.template.goal(first.captured.snapshot)
        try:
            return self.court.decide(cases, goal, known=known, budget_s=budget_s, sparing=self._sparing(budget_s))
        except CaptureError as error:  # the model can no longer be run on the kept samples
            return [Decision(accepted=False, detail=str(error)) for _ in cases]
        except BaseException as error:  # the user's own, or Ctrl-C: the loop gets it, and each answer its verdict
            for answer in answers:
                self._conclude(answer, Decision(accepted=False, detail=f"validation raised {error!r}"))
            raise

    def _sparing(self, budget_s: float) -> bool:
        """Whether validations have taken more than their share; never where nothing may depend on the clock."""
        return math.isfinite(budget_s) and self.court.validator.seconds > VALIDATION_SHARE * self.journal.age_s

    def _learn(self, answer: Answer, decision: Decision) -> None:
        """Adapt radius and turns; a layer whose model does not do what its job promised is not tried again."""
        view, number = answer.stall.view, answer.stall.number
        if isinstance(answer.job_kind, Variation):
            self.worker.portfolio.note(answer.job_kind, paid=decision.accepted)
        if decision.accepted:
            self.turns.helped(view.turn, number)
            if not view.whole:
                self.radius.adopted(view.name)
            return
        self.turns.failed(view.turn, number)
        if decision.refused is not None:
            self.turns.distrusted[view.name] = decision.refused
        elif answer.result.improved and not view.whole and _says_something(decision):
            self.radius.rejected(view.name)

    def _conclude(self, answer: Answer, decision: Decision) -> None:
        """Note the verdict, have the pool told, and say what the user should know."""
        stall = answer.stall
        stale = self.journal.gd_step - stall.gd_step
        figures = {"before": decision.before, "after": decision.after, "staleness_steps": stale}
        kind: Kind = "adopted" if decision.accepted else "rejected" if decision.refused is None else "refused"
        detail = decision.refused or decision.detail
        self.journal.add(kind, stall.number, job=answer.job, way=decision.way, detail=detail, **figures)
        if decision.change is not None:
            self.standing.note(stall.number, answer.job, decision.change)
        finite = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        feedback = Feedback.model_validate({"accepted": decision.accepted, "metric": self.monitor, **finite})
        self.worker.report(Verdict(answer.job, feedback))
        told = decision.way if detail is None else detail
        if decision.after is None:
            logger.info("%s: answer %s (%s)", stall.called, kind, told)
            return
        scores = (
            f"{decision.before:.6g} -> {decision.after:.6g}" if decision.before is not None else f"{decision.after:.6g}"
        )
        logger.info("%s: answer %s, %s (%s)", stall.called, kind, scores, told)
        self._deaf = self._deaf + 1 if decision.deaf else 0
        if self._deaf == DEAF:
            logger.warning(
                "validate() gave %.6g before and after the weights were changed: if it scores an averaged (EMA) copy "
                "or caches its score, no answer can ever be adopted; let it score the model that is trained",
                decision.after,
            )


def _says_something(decision: Decision) -> bool:
    """Whether a rejection is about the answer: beside a model that scores NaN no box is too wide."""
    return decision.before is None or math.isfinite(decision.before)
