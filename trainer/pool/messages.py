"""What the training thread and the background worker hand to one another: arrays and figures, never the model."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.contracts import Feedback, JobResult
from shared.objectives import Objective
from trainer.model.blocks import Values
from trainer.model.view import LayerView
from trainer.model.whole_network import Draw
from trainer.pool.portfolio import Variation
from trainer.snapshots.captured import Captured

JobKind = Draw | Variation


@dataclass(frozen=True, eq=False)
class Stall:
    """One stall: its number, the counters and the tunneller's age then, and what was captured of one layer.

    `start` are the block's parameters in the model's own units, `radius` is the half-width of the plain job's box,
    `last` says that training is over, and `left_s` how long the loop will wait for all answers.
    """

    number: int
    step: int
    gd_step: int
    age_s: float
    captured: Captured
    view: LayerView
    start: Values
    radius: float
    last: bool = False
    left_s: float = math.inf

    @property
    def turn(self) -> str:
        """The name under which its failure counts."""
        return self.view.turn

    @property
    def called(self) -> str:
        """What the user is told that it is."""
        return "last tunnel" if self.last else f"stall {self.number}"


@dataclass(frozen=True, eq=False)
class Answer:
    """A job's answer as parameters of the model, by name, what the job minimised, and how it differed from others.

    `samples` are the positions [n] of the job's own among all that were seen; None where a crash has taken them.
    """

    stall: Stall
    job_kind: JobKind
    job: str
    parameters: Values
    objective: Objective
    result: JobResult
    samples: NDArray[np.int64] | None = None

    @property
    def captured(self) -> Captured:
        """What the job was made of."""
        return self.stall.captured


def grouped(answers: Sequence[Answer]) -> Iterator[list[Answer]]:
    """Answers that are judged together: those of one stall that differ in their boxes and samples alone.

    Whole networks are judged one by one: all fit their samples, and only validation knows which is good elsewhere.
    """
    for _, group in itertools.groupby(answers, key=lambda answer: answer.stall.number):
        together = list(group)
        yield from [[answer] for answer in together] if together[0].stall.view.whole else [together]


@dataclass(frozen=True)
class Verdict:
    """What became of a job's answer, on its way to the pool."""

    job: str
    feedback: Feedback
