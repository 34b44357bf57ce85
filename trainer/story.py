"""Tells what a tunneller's events come to: gains, why answers were declined, and what to try next."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.objectives import REGRESSION
from trainer.course import Course
from trainer.events import Event
from trainer.scores import Mode

NOTHING_BETTER = "the solver found nothing better in the box"
MOVED_ON = "none is better on the kept samples than the model as it is by now"
NO_GAIN = "no gain on validation"
ANOTHER = "another answer to the same stall did better on the kept samples"
NO_SCORE = "validate() gave no finite number:"
LOOK = "print what it computes; an empty data set, 0/0 in a metric, or infinite outputs of the model end so"
UNLIKE = "the live model does not do what the job promised"
STILL_OUT = "cancelled at close, still out"
NOT_JUDGED = "answered when all was over: close(polish=True, timeout=...) waits for answers to a last tunnel"
ASKED_ANEW = "too late for the last step(): the last tunnel asked anew, for the weights of the end"
STRAYED = "dropped as another optimizer took over: see Tunneller.use_optimizer"
LEFT_ALONE = "dropped as this optimizer overwrites what is adopted: see Tunneller.use_optimizer"
PARTED = "the ranks' models have come to differ: call step() where they are the same"
OVER = (STILL_OUT, NOT_JUDGED, ASKED_ANEW, STRAYED, LEFT_ALONE, PARTED)
"""Reasons that are about when an answer came, and not about what is in it."""
UNDONE = "adopted, and set back by the loop"
PROJECTED = "adopted, and changed by the loop to what it keeps of its weights"
OVERWRITTEN = "adopted, and overwritten by the optimizer's own copies"
CURES = {
    UNDONE: "call step() where the model holds the weights that are trained, not while others are swapped in",
    PROJECTED: "say in `constraints` what the loop keeps of its weights, or choose another layer",
    OVERWRITTEN: "train with an optimizer that steps the model's own weights, not copies of them",
}
VERDICTS = ("adopted", "rejected", "refused")
FITTED, FITTED_NUMBERS = 1e-3, 1e-6
"""An objective at the start that leaves nothing to be had; that of numbers is in the targets' units."""


@dataclass(frozen=True)
class InForce:
    """The settings that hints speak of: what is set already need not be advised.

    `auto` says that the policy chooses the layer, `radius` is the last stall's (weight units; None: there was none),
    `time_s` a job's budget, `mode` the direction of the score (None: every change counts as a gain), `required` says
    that a better score may be of a worse model, `doubted` why jobs may not see what the loop trains on.
    """

    auto: bool = False
    radius: float | None = None
    time_s: float | None = None
    mode: Mode | None = None
    required: bool = False
    doubted: str = ""

    def scaled_radius(self, factor: float) -> str:
        """A radius to try, in words."""
        return "`radius`" if self.radius is None else f"radius={factor * self.radius:.2g}"


def no_score(found: float) -> str:
    """The reason where validation gave NaN or infinity, and which."""
    return f"{NO_SCORE} {'NaN' if math.isnan(found) else 'infinity' if found > 0 else '-infinity'}"


def declined(events: Sequence[Event]) -> dict[str, int]:
    """How many answers and jobs came to nothing, by reason, the commonest first."""
    reasons = Counter(reason for event in events if (reason := _reason(event)) is not None)
    judged = {event.job for event in events if event.kind in VERDICTS}
    if late := sum(event.kind == "answered" and event.job not in judged for event in events):
        reasons[NOT_JUDGED] += late
    return dict(reasons.most_common())


def standing(events: Sequence[Event]) -> list[Event]:
    """The adoptions that the loop has not undone."""
    undone = {event.job for event in events if event.kind == "undone"}
    return [event for event in events if event.kind == "adopted" and event.job not in undone]


def gained(events: Sequence[Event], mode: Mode | None = None) -> float:
    """The sum of what adopted answers gained on the validation score, in the metric's units.

    Below 0 where a score was given up for what is required. Without `mode` each change counts by its size.
    """
    adopted = standing(events)
    found = [(event.before, event.after) for event in adopted if event.before is not None and event.after is not None]
    changes = [after - before for before, after in found]
    if mode is None:
        return sum(map(abs, changes))
    # What was NaN before gained something, but nobody can say how much.
    gains = (change if mode == "max" else -change for change in changes)
    return sum((gain for gain in gains if math.isfinite(gain)), start=0.0)  # never -0.0 where there are none


def judged(course: Course, events: Sequence[Event], mode: Mode) -> Course:
    """The course with what was adopted, and with what validation said of the model as the last answer left it."""
    found = course
    for event in standing(events):
        if event.after is not None:
            found = found.then(event.after, event.step, mode)
    last = next((event for event in reversed(events) if event.kind in ("adopted", "rejected")), None)
    if last is not None and last.kind == "rejected" and last.before is not None and last.step == course.step:
        found = found.then(last.before, last.step, mode)
    return found


def advice(  # noqa: PLR0911
    events: Sequence[Event], *, pool_lost: bool, settings: InForce | None = None, course: Course | None = None
) -> str:
    """One sentence on what to try; empty where answers help, and the model is as good as it ever was."""
    kinds, settings = Counter(event.kind for event in events), settings or InForce()
    if standing(events):
        return _back(course, settings)
    if kinds["undone"]:
        return CURES.get(next(str(event.detail) for event in reversed(events) if event.kind == "undone"), CURES[UNDONE])
    if pool_lost:
        return "the pool could not be reached: start one with `gdsolver-pool up`, or check GDSOLVER_GATEWAY"
    if not kinds["stall"] and not kinds["polish"] and not kinds["failed"]:
        return "the score never stalled for `patience` checks: lower it, set `first_after`, or close(polish=True)"
    if not kinds["answered"]:
        last = next((event.detail for event in reversed(events) if event.kind == "failed"), None)
        return last or "no answer came in time: give jobs less `time_s`, or the pool more workers"
    commonest = next((reason for reason in declined(events) if reason not in OVER), "")
    if commonest.startswith(NO_SCORE):
        return f"look at `validate`: {LOOK}"
    if settings.doubted:
        return settings.doubted
    if commonest == NOTHING_BETTER:
        return _wider(events, settings)
    if commonest == NO_GAIN:
        smaller = f"a smaller box ({settings.scaled_radius(0.5)})"
        return f"answers fit the samples but not validation: more `samples`, {smaller}, or another `objective`"
    if commonest == MOVED_ON:
        return "answers come late for this loop: less `time_s`, or close(polish=True) at the end"
    return ""


def _back(course: Course | None, settings: InForce) -> str:
    """Where to find better weights than the last ones, if a run had any."""
    if course is None or settings.mode is None or settings.required or not course.fell(settings.mode):
        return ""
    return f"the score was better after check {course.best_step} than at the end: use your own checkpoint of then"


def _wider(events: Sequence[Event], settings: InForce) -> str:
    """What to try where solvers found nothing better, by what they said of it."""
    vain = {event.job for event in events if event.detail == NOTHING_BETTER}
    answers = [event for event in events if event.kind == "answered" and event.job in vain]
    if all(_fitted(event) for event in answers):
        others = "" if settings.auto else "; layer='auto' looks at the other layers"
        return f"the layer already fits its samples: nothing to be had here{others}"
    hints = [f"widen the box ({settings.scaled_radius(2.0)})"]
    if not all("optimal" in (event.detail or "") for event in answers):  # what is proved needs no more time
        hints.append("give jobs more time" + (f" (time_s={2 * settings.time_s:g})" if settings.time_s else ""))
    if not settings.auto:
        hints.append("let the policy choose the layer (layer='auto')")
    return ", or ".join(hints)


def _fitted(answered: Event) -> bool:
    name = (answered.detail or "").split(",")[0]
    return answered.before is not None and answered.before <= (FITTED_NUMBERS if name in REGRESSION else FITTED)


def _reason(event: Event) -> str | None:
    match event.kind:
        case "rejected":
            return event.detail or NO_GAIN
        case "refused":
            return UNLIKE
        case "undone":
            return event.detail or UNDONE
        case "failed":
            return (event.detail or "failed").split(": ")[0]  # what follows may differ; a URL's colon has no space
        case "cancelled":
            return event.detail or STILL_OUT
    return None
