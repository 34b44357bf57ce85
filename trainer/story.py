"""Tells what a tunneller's events come to: gains, why answers were declined, and what to try next."""

from collections import Counter
from collections.abc import Sequence

from trainer.events import Event

NOTHING_BETTER = "the solver found nothing better in the box"
MOVED_ON = "the model has moved on: none is better on the kept samples"
NO_GAIN = "no gain on validation"
ANOTHER = "another answer to the same stall did better on the kept samples"
UNLIKE = "the live model does not do what the job promised"


def declined(events: Sequence[Event]) -> dict[str, int]:
    """How many answers and jobs came to nothing, by reason, the commonest first."""
    reasons = Counter(reason for event in events if (reason := _reason(event)) is not None)
    return dict(reasons.most_common())


def gained(events: Sequence[Event]) -> float:
    """The sum of what adopted answers changed the validation score by, in the metric's units, as a size."""
    adopted = [event for event in events if event.kind == "adopted"]
    return sum(
        abs(event.after - event.before) for event in adopted if event.before is not None and event.after is not None
    )


def advice(events: Sequence[Event], *, pool_lost: bool) -> str:  # noqa: PLR0911
    """One sentence on what to try; empty where answers help."""
    kinds = Counter(event.kind for event in events)
    if kinds["adopted"]:
        return ""
    if pool_lost:
        return "the pool could not be reached: start one with `gdsolver-pool up`, or check GDSOLVER_GATEWAY"
    if not kinds["stall"] and not kinds["failed"]:
        return "the score never stalled for `patience` checks: lower it, set `first_after`, or close(polish=True)"
    if not kinds["answered"]:
        last = next((event.detail for event in reversed(events) if event.kind == "failed"), None)
        return last or "no answer came in time: give jobs less `time_s`, or the pool more workers"
    commonest = next(iter(declined(events)), "")
    if commonest == NOTHING_BETTER:
        return "widen the box (`radius`), give jobs more `time_s`, or let the policy choose: layer='auto'"
    if commonest == NO_GAIN:
        return "answers fit the samples but not validation: more `samples`, a smaller `radius`, or another `objective`"
    if commonest == MOVED_ON:
        return "answers come late for this loop: less `time_s`, or close(polish=True) at the end"
    return ""


def _reason(event: Event) -> str | None:
    match event.kind:
        case "rejected":
            return event.detail or NO_GAIN
        case "refused":
            return UNLIKE
        case "failed":
            return (event.detail or "failed").split(":")[0]
    return None
