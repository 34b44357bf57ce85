"""The tables of the headline experiment, from its records alone: losses stand where wins do."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.headline.significance import interval, paired_p

Record = dict[str, Any]
OURS = ("hybrid-lbfgs", "hybrid", "hybrid-gce")
TWINS = {"hybrid-lbfgs": "lbfgs", "hybrid-gce": "gce"}
"""What a hybrid is without a pool; `hybrid` is `adam`."""
SURE = 0.05
TIE_SHARE, TIE_POINTS = 1e-3, 5e-4
"""Differences below this share of an error, or this of an accuracy, are ties, whichever way they go."""


def values(records: Sequence[Record], case: str, method: str, field: str = "test") -> list[float]:
    """One number a seed, in the order of seeds."""
    chosen = [record for record in records if record["case"] == case and record["method"] == method]
    return [record[field] for record in sorted(chosen, key=lambda record: record["seed"])]


def names(records: Sequence[Record], field: str, case: str | None = None) -> list[str]:
    """The cases or methods there are, in the order of their first record."""
    return list(dict.fromkeys(record[field] for record in records if case in (None, record["case"])))


def is_variant(method: str) -> bool:
    """Whether it is a part of the ablation rather than a method of its own."""
    return ", " in method or method == "restart"


def higher_is_better(records: Sequence[Record], case: str) -> bool:
    """By the case's metric."""
    return next(record["metric"] for record in records if record["case"] == case) == "accuracy"


def tested(records: Sequence[Record], case: str) -> str:
    """The hybrid that a case puts to the test: the one that was run first, whose cost is everybody's budget."""
    return names(records, "method", case)[0]


def ranked(records: Sequence[Record], case: str) -> list[str]:
    """The methods of a case, the best mean on test data first."""
    sign = -1.0 if higher_is_better(records, case) else 1.0
    methods = [method for method in names(records, "method", case) if not is_variant(method)]
    return sorted(methods, key=lambda method: sign * float(np.mean(values(records, case, method))))


def best_baseline(records: Sequence[Record], case: str) -> str:
    """The best of all that is no hybrid, by the mean on test data: the choice is as kind to it as can be."""
    return next(method for method in ranked(records, case) if method not in OURS)


def shown(records: Sequence[Record], case: str, method: str) -> str:
    """The mean and its interval; accuracies in percent."""
    found = interval(values(records, case, method))
    if higher_is_better(records, case):
        return f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{found.mean:.3g} ({found.low:.3g} to {found.high:.3g})"


def verdict(records: Sequence[Record], case: str, ours: str) -> list[str]:
    """A hybrid against the best baseline: by how much, on how many seeds, how likely by chance, and won or lost."""
    rival = best_baseline(records, case)
    mine, theirs = np.array(values(records, case, ours)), np.array(values(records, case, rival))
    if higher_is_better(records, case):
        gain, gains = f"{100 * (mine - theirs).mean():+.1f} points", mine - theirs
    else:
        gain, gains = f"{100 * (mine.mean() / theirs.mean() - 1):+.0f} % error", theirs - mine
    mean = float(gains.mean())
    least = TIE_POINTS if higher_is_better(records, case) else TIE_SHARE * float(theirs.mean())
    word = "tie" if abs(mean) < least else "won" if mean > 0 else "lost"
    return [rival, gain, f"{int((gains > 0).sum())} of {len(gains)}", f"{paired_p(mine, theirs):.2g}", word]


def main_table(records: Sequence[Record]) -> str:
    """A row for every case and hybrid, with the best baseline beside it."""
    rows = [
        [case, ours, shown(records, case, ours), shown(records, case, best_baseline(records, case)), *rest]
        for case in names(records, "case")
        for ours in OURS
        if ours in names(records, "method", case)
        for rest in [verdict(records, case, ours)]
    ]
    heads = ["task", "method", "test", "best baseline's test", "best baseline", "difference", "seeds ahead", "p", "so"]
    return markdown(heads, rows)


def score_line(records: Sequence[Record]) -> str:
    """Wins, losses and ties in one sentence, those that chance explains counted apart."""
    found = [verdict(records, case, tested(records, case)) for case in names(records, "case")]
    words = [row[-1] for row in found]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("won", "lost", "tie"))
    sure = sum(float(row[-2]) < SURE for row in found)
    return (
        f"The hybrid under test against the best baseline of each task, in means: {counts}, of {len(words)}; "
        f"with p below {SURE:g}: {sure}.\n"
    )


def all_methods(records: Sequence[Record]) -> str:
    """Every method on every case, the best first, with what it cost."""
    rows = []
    for case in names(records, "case"):
        for place, method in enumerate(ranked(records, case), start=1):
            cost = f"{np.mean(values(records, case, method, 'cpu_s')):.1f}"
            starts = f"{np.mean(values(records, case, method, 'starts')):.1f}"
            rows.append([case, str(place), method, shown(records, case, method), cost, starts])
    return markdown(["task", "place", "method", "test, mean and 95 % interval", "CPU s", "starts"], rows)


def ablation(records: Sequence[Record]) -> str:
    """The hybrid with other solvers in it, where that was tried; empty where it was not."""
    rows = []
    for case in names(records, "case"):
        variants = [method for method in names(records, "method", case) if is_variant(method)]
        if not variants:
            continue
        ours = tested(records, case)
        twins = [twin for twin in (TWINS.get(ours, "adam"), "lbfgs-prices") if twin in names(records, "method", case)]
        for method in (*twins[:1], *variants, ours):
            found, whole = values(records, case, method), values(records, case, ours)
            p = "" if method == ours else f"{paired_p(found, whole):.2g}"
            adopted = f"{np.mean(values(records, case, method, 'adopted')):.1f}"
            cost = f"{np.mean(values(records, case, method, 'cpu_s')):.1f}"
            rows.append([case, method, shown(records, case, method), adopted, cost, p])
    return markdown(["task", "what answers", "test", "adopted", "CPU s", "p against all of it"], rows) if rows else ""


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def marks(mode: str) -> tuple[str, str]:
    """Between what the tables of a mode stand in the guide."""
    return f"<!-- {mode}: written by `python -m benchmarks.headline` -->", f"<!-- end of {mode} -->"


def replaced(guide: str, mode: str, text: str) -> str:
    """The guide with other tables of a mode; as it was if it has no place for them."""
    begin, end = marks(mode)
    before, begun, rest = guide.partition(begin)
    _, ended, behind = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n{end}{behind}" if begun and ended else guide


def document(records: Sequence[Record]) -> str:
    """All of it."""
    seeds = len({record["seed"] for record in records})
    parts = [
        f"Test data, {seeds} seeds, mean and 95 % bootstrap interval; p of a paired permutation test.\n",
        score_line(records),
        main_table(records),
        "Every method, the best first\n",
        all_methods(records),
        "The hybrid with another solver in it\n",
        ablation(records),
    ]
    return "\n".join(parts)
