"""Everything the trainer raises on purpose, under one root, so that a training script can catch it in one place."""

import signal
from traceback import walk_tb
from typing import Any

from shared.contracts import Problem
from shared.errors import remade


class TrainerError(Exception):
    """Root of all errors that the trainer raises. A process of a pool can raise them, whatever their arguments are."""

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, (type(self), self.args, self.__dict__)


class PoolUnavailableError(TrainerError):
    """The pool did not answer or is too busy; it may work later. `problem` is the pool's word, if it gave one."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class PoolRefusedError(TrainerError):
    """The pool refused a request; asking again will not help. `code`, `field`, `detail` and `status` say why."""

    def __init__(self, problem: Problem) -> None:
        where = f"{problem.field}: " if problem.field and not problem.detail.startswith(problem.field) else ""
        super().__init__(f"{where}{problem.detail} ({problem.code}, HTTP {problem.status})")
        self.problem = problem
        self.code = problem.code
        self.field = problem.field
        self.detail = problem.detail
        self.status = problem.status


class ResultUnavailableError(TrainerError):
    """A job has no (readable) result: it is unfinished, found nothing, or its data has expired."""


class WaitTimeoutError(TrainerError, TimeoutError):
    """A job was not finished within the time given; it goes on, and can be asked after again."""


class CaptureError(TrainerError):
    """A snapshot cannot be taken of this model, layer or data; the message says what would work."""


class PartError(CaptureError):
    """The model cannot be run on some rows, or what it puts out does not fit them; on others it may be."""


class NothingCountsError(CaptureError):
    """No target of the samples at hand is one that the loss looks at; others may be."""


class FinalLayerError(CaptureError):
    """The final layer, `layer`, may not move, and no other was asked for; the message names those that may.

    `always` says that it never could, so that another one has to be given; else the loop may free it again.
    """

    def __init__(self, message: str, layer: str, *, always: bool) -> None:
        super().__init__(message)
        self.layer, self.always = layer, always


class DataError(TrainerError):
    """A batch, targets or weights are not of a form that is understood; the message says what would be."""


class MisfitError(DataError):
    """What the model puts out and the targets are of shapes that do not fit; those of other batches may."""


class OptimizerError(TrainerError, TypeError):
    """What was given as the optimizer is none, and wraps none; the message says what would work."""


class TaskError(TrainerError):
    """A data set or an option does not fit; `field` names the option or column, the message the cure."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class EmbeddedPoolError(TrainerError):
    """The embedded pool did not start; the message names what it lacks, or ends with its last words."""


def interrupts(error: BaseException) -> bool:
    """Whether a signal's handler raised an error, as at preemption: it is meant for the loop, wherever it arrived."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in walk_tb(error.__traceback__))
