"""The tables of the requirements, from the records alone: losses and ties stand where wins do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.headline.significance import interval, paired_p
from benchmarks.headline.tables import markdown
from benchmarks.requirements.settings import ALLOWED

Record = dict[str, Any]
ROUNDING = 1e-9
HYBRID, UNASKED = "hybrid", ("as trained", "refit")
BEGIN, END = "<!-- tables: written by `python -m benchmarks.requirements` -->", "<!-- end of tables -->"


@dataclass(frozen=True, eq=False)
class Matched:
    """A method at the smallest safety margin at which its mean violation on test data is at most ALLOWED.

    `accuracy` and `violation` [seeds] are interpolated between the margins of the ladder. Where no margin is enough,
    `reached` is false and they are those of the largest.
    """

    margin: float
    accuracy: NDArray[np.float64]
    violation: NDArray[np.float64]
    reached: bool


def matched(records: Sequence[Record], setting: str, method: str) -> Matched:
    """Where a method is to be compared with others: at equal satisfaction on test data."""
    chosen = [record for record in records if (record["setting"], record["method"]) == (setting, method)]
    chosen.sort(key=lambda record: record["seed"])
    margins = np.array(chosen[0]["margins"])
    accuracy = np.array([record["accuracy"] for record in chosen])
    violation = np.array([record["violation"] for record in chosen])
    mean = violation.mean(axis=0)
    enough = np.flatnonzero(mean <= ALLOWED)
    place = float(enough[0]) if enough.size else len(margins) - 1.0
    if enough.size and enough[0] > 0:  # between the last margin that was too small and the first that is enough
        before = enough[0] - 1
        place = before + (mean[before] - ALLOWED) / (mean[before] - mean[before + 1])
    steps = np.arange(len(margins))
    return Matched(
        float(np.interp(place, steps, margins)),
        np.array([np.interp(place, steps, row) for row in accuracy]),
        np.array([np.interp(place, steps, row) for row in violation]),
        bool(enough.size),
    )


def best_rival(records: Sequence[Record], setting: str) -> str:
    """The most accurate in the mean of all that keep the requirement, among those who were told of it."""
    rivals = [name for name in names_of(records, setting) if name != HYBRID]
    keep = [name for name in rivals if matched(records, setting, name).reached]
    told = [name for name in rivals if name not in UNASKED]
    return max(keep or told, key=lambda name: float(matched(records, setting, name).accuracy.mean()))


def settings_of(records: Sequence[Record]) -> list[str]:
    """The settings, in the order of their first record."""
    return list(dict.fromkeys(record["setting"] for record in records))


def names_of(records: Sequence[Record], setting: str) -> list[str]:
    """The methods of a setting, in the order of their first record."""
    return list(dict.fromkeys(record["method"] for record in records if record["setting"] == setting))


def verdict(records: Sequence[Record], setting: str) -> list[str]:
    """The hybrid against the best rival: a win or a loss only where the difference's interval leaves 0 out."""
    rival = best_rival(records, setting)
    ours, theirs = matched(records, setting, HYBRID), matched(records, setting, rival)
    gains = ours.accuracy - theirs.accuracy
    found = interval(gains)
    word = "won" if found.low > 0 else "lost" if found.high < 0 else "tie"
    if len(gains) == 1:  # no interval, no verdict
        word = "ahead" if gains[0] > 0 else "behind" if gains[0] < 0 else "level"
    if not ours.reached:
        word = "lost" if theirs.reached else "neither keeps it"
    difference = f"{100 * found.mean:+.2f} points"
    difference += f" ({100 * found.low:+.2f} to {100 * found.high:+.2f})" if len(gains) > 1 else ""
    ahead = f"{int((gains > 0).sum())} of {len(gains)}"
    return [
        shown(ours),
        rival,
        shown(theirs),
        difference,
        ahead,
        f"{paired_p(ours.accuracy, theirs.accuracy):.2g}",
        word,
    ]


def shown(found: Matched) -> str:
    """Accuracy in percent with its interval; in brackets where the requirement is not kept."""
    inner = interval(found.accuracy)
    text = f"{100 * inner.mean:.2f} %"
    text += f" ({100 * inner.low:.2f} to {100 * inner.high:.2f})" if len(found.accuracy) > 1 else ""
    return text if found.reached else f"[{text}]"


def main_table(records: Sequence[Record]) -> str:
    """A row for every setting."""
    rows = [[setting, *verdict(records, setting)] for setting in settings_of(records)]
    heads = ["setting", "hybrid", "best rival", "its accuracy", "difference", "seeds ahead", "p", "so"]
    return markdown(heads, rows)


def all_methods(records: Sequence[Record]) -> str:
    """Every method of every setting, those that keep the requirement first."""
    rows = []
    for setting in settings_of(records):
        found = {name: matched(records, setting, name) for name in names_of(records, setting)}
        order = sorted(found, key=lambda name: (not found[name].reached, -found[name].accuracy.mean()))
        for name in order:
            mine = [record for record in records if (record["setting"], record["method"]) == (setting, name)]
            first = f"{100 * np.mean([record['accuracy'][0] for record in mine]):.2f} %"
            broken = f"{100 * np.mean([record['violation'][0] for record in mine]):.1f}"
            kept = f"{int((found[name].violation <= ALLOWED + ROUNDING).sum())} of {len(mine)}"
            cost = f"{np.mean([record['cpu_s'] for record in mine]):.1f}"
            margin = "" if name in UNASKED else f"{100 * found[name].margin:.1f}"
            rows.append([setting, name, shown(found[name]), margin, kept, first, broken, cost])
    heads = ["setting", "method", "accuracy", "margin", "kept", "without margin", "broken by", "CPU s"]
    return markdown(heads, rows)


def score_line(records: Sequence[Record]) -> str:
    """Wins, losses and ties in one sentence."""
    words = [verdict(records, setting)[-1] for setting in settings_of(records)]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return f"The hybrid against the best rival of each setting: {counts}, of {len(words)}.\n"


def summary(records: Sequence[Record]) -> str:
    """What the guide shows."""
    seeds = len({record["seed"] for record in records})
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    intro = f"Test data, {count}, mean and 95 % bootstrap interval; p of a paired permutation test.\n"
    return "\n".join([intro, score_line(records), main_table(records)])


def document(records: Sequence[Record]) -> str:
    """All of it."""
    every = "Every method. Margin and `broken by` in points; `kept` counts seeds.\n"
    return "\n".join([summary(records), every, all_methods(records)])


def replaced(guide: str, text: str) -> str:
    """The guide with other tables; as it was if it has no place for them."""
    before, begun, rest = guide.partition(BEGIN)
    _, ended, behind = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text}\n{END}{behind}" if begun and ended else guide
