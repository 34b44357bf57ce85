"""Counts which samples the answers give up on: what a user should look at first, for a label may be wrong."""

import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from shared.contracts import Suspect
from trainer.pool.messages import Answer
from trainer.samples.batches import Batch
from trainer.samples.rows import Rows
from trainer.snapshots.captured import Origin

MOST = 200
"""How many samples are remembered: where they have no numbers, a copy of each is kept."""


@dataclass(frozen=True, eq=False)
class Suspicion:
    """A sample that answers give up on.

    index: the row of `data`, or the number that `observe(..., index=...)` gave; None where samples have none.
    place: the position within the row, where a row has several (the token of a sequence, the pixel of a map).
    label: the target that is doubted: a class, or the numbers of a regression.
    answers: how many answers named it.
    margin: the mean over these of how far the sample is from being right, in the scores' (or targets') units, below 0.
    sample: the kept sample as a batch of one; None where `index` says which it is.
    """

    index: int | None
    place: int
    label: int | float | list[float]
    answers: int
    margin: float
    sample: Batch | None = field(default=None, repr=False)


@dataclass
class Suspicions:
    """All suspects of one tunneller, on the training thread."""

    _found: dict[Hashable, Suspicion] = field(default_factory=dict)

    def note(self, answer: Answer) -> None:
        """Count what a good answer gives up on; nothing where its samples are gone, or nothing better was found.

        GD's own weights give up on samples, too, but for want of trying.
        """
        if answer.samples is None or not answer.result.improved:
            return
        origin, targets = answer.captured.origin.take(answer.samples), answer.captured.whole.targets[answer.samples]
        for suspect in answer.result.suspects:
            # What a pool says of places and margins is not believed unseen.
            if 0 <= suspect.index < len(targets) and math.isfinite(suspect.margin):
                label = targets[suspect.index].tolist()
                self._add(origin, suspect, label[0] if isinstance(label, list) and len(label) == 1 else label)
        self._found = dict(self._ranked()[:MOST])

    def found(self) -> list[Suspicion]:
        """All that is known: what most answers name comes first, of these the most wrong."""
        return [one for _, one in self._ranked()]

    def _ranked(self) -> list[tuple[Hashable, Suspicion]]:
        return sorted(self._found.items(), key=lambda entry: (-entry[1].answers, entry[1].margin))

    def _add(self, origin: Origin, suspect: Suspect, label: int | float | list[float]) -> None:
        row, place = int(origin.row[suspect.index]), int(origin.place[suspect.index])
        index = origin.rows.number(row)
        key = (index if index is not None else _digest(origin.rows, row), place)
        old = self._found.get(key)
        count, total = (old.answers, old.answers * old.margin) if old else (0, 0.0)
        self._found[key] = Suspicion(
            index=index,
            place=place,
            label=label,
            answers=count + 1,
            margin=(total + suspect.margin) / (count + 1),
            sample=old.sample if old else origin.rows.sample(row) if index is None else None,
        )


def _digest(rows: Rows, row: int) -> bytes:
    """What a sample without a number is known by: the same inputs and targets are the same sample."""
    digest = hashlib.blake2b(digest_size=16)
    for part in rows.content(row):
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.digest()
