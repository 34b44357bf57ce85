"""The stable error codes, and the one exception root of everything that crosses the wire."""

from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """Codes that clients may branch on; the words beside them may change, the codes do not."""

    INVALID_SNAPSHOT = "invalid_snapshot"
    INVALID_SPEC = "invalid_spec"
    NOT_SUPPORTED = "not_supported"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NO_RESULT = "no_result"
    NOT_FINISHED = "not_finished"
    GONE = "gone"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    HASH_MISMATCH = "hash_mismatch"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_JOBS = "too_many_jobs"
    TOO_MANY_FAILURES = "too_many_failures"
    STORAGE_FULL = "storage_full"
    REQUEST_TIMEOUT = "request_timeout"
    STORE_UNAVAILABLE = "store_unavailable"
    DRAINING = "draining"
    WORKER_LOST = "worker_lost"
    SOLVER_ERROR = "solver_error"
    NOT_FINITE = "not_finite"
    INTERNAL = "internal"


class ContractError(ValueError):
    """Something on the wire is not as agreed; it names the field and the cure."""

    def __init__(self, detail: str, *, field: str, code: ErrorCode) -> None:
        super().__init__(f"{field}: {detail}")
        self.detail = detail
        self.field = field
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, (type(self), self.args, self.__dict__)


def remade(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an error anew from what it holds, as unpickling does, past an `__init__` that takes something else.

    What does not survive pickling kills a process pool, which then hides the message as BrokenProcessPool.
    """
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class SnapshotError(ContractError):
    """A snapshot's bytes, tensors or metadata are not a valid `gdsolver.snapshot/1`."""

    def __init__(self, detail: str, *, field: str = "snapshot", code: ErrorCode = ErrorCode.INVALID_SNAPSHOT) -> None:
        super().__init__(detail, field=field, code=code)


class SpecError(ContractError):
    """A job spec does not fit its snapshot, or asks for something that is not there."""

    def __init__(self, detail: str, *, field: str = "spec", code: ErrorCode = ErrorCode.INVALID_SPEC) -> None:
        super().__init__(detail, field=field, code=code)


class ResultError(ContractError):
    """A result file's bytes are not one, or its weights are not numbers."""

    def __init__(self, detail: str, *, field: str = "result", code: ErrorCode = ErrorCode.NO_RESULT) -> None:
        super().__init__(detail, field=field, code=code)
