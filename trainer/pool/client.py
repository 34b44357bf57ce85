"""The REST interface of a solver pool as Python calls."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx
import pydantic

from shared.batches import BatchSpec, BatchStatus
from shared.contracts import (
    MAX_WAIT_S,
    Answer,
    Feedback,
    JobEvent,
    JobList,
    JobSpec,
    JobStatus,
    SnapshotInfo,
    State,
    Stats,
    WorkerInfo,
    WorkerList,
)
from shared.errors import ResultError
from shared.result import Candidate
from shared.snapshot import Snapshot
from trainer.errors import PoolRefusedError, PoolUnavailableError, ResultUnavailableError, WaitTimeoutError
from trainer.pool.transport import Channel

DEFAULT_URL = "http://127.0.0.1:8000"
LAST_PORT = 65535
BINARY = "application/octet-stream"
AnswerType = TypeVar("AnswerType", bound=Answer)


class SolverClient:
    """Talks to one gateway; safe to share between threads.

    `url` and `api_key` are, where left out, GDSOLVER_GATEWAY and GDSOLVER_API_KEY, as for the command line, and else
    the pool that `gdsolver-pool up` starts on this machine. Every submission carries an idempotency key, so a repeated
    try never makes a second job. All methods raise PoolUnavailableError (may pass) or PoolRefusedError (will not).
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if url is None:
            url = os.environ.get("GDSOLVER_GATEWAY") or DEFAULT_URL
        key = (api_key or os.environ.get("GDSOLVER_API_KEY") or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("the API key (api_key, --api-key or GDSOLVER_API_KEY) has to be printable ASCII")
        self._channel = Channel(
            _readable(url), api_key=key or None, timeout=timeout, retries=retries, transport=transport, sleep=sleep
        )

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self._channel.url

    def upload(self, snapshot: Snapshot | bytes) -> str:
        """Store a snapshot and return its id (the SHA-256 of its bytes)."""
        reply = self._channel.request(
            "POST", "/v1/snapshots", content=_bytes(snapshot), headers={"Content-Type": BINARY}
        )
        return _read(SnapshotInfo, reply).id

    def submit(self, spec: JobSpec) -> JobStatus:
        """Queue a job for a stored or inline snapshot."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        content = spec.model_dump_json(exclude_none=True).encode()
        return _read(JobStatus, self._channel.request("POST", "/v1/jobs", content=content, headers=headers))

    def solve(self, snapshot: Snapshot | bytes, spec: JobSpec, key: str | None = None) -> JobStatus:
        """Upload a snapshot and queue a job for it in one call; the same `key` finds the same job again."""
        reply = self._channel.request(
            "POST",
            "/v1/solve",
            data={"spec": spec.model_dump_json(exclude_none=True)},
            files={"snapshot": ("snapshot.safetensors", _bytes(snapshot), BINARY)},
            headers={"Idempotency-Key": key or uuid.uuid4().hex},
        )
        return _read(JobStatus, reply)

    def submit_batch(
        self, snapshot: Snapshot | bytes | str, specs: Sequence[JobSpec], key: str | None = None
    ) -> BatchStatus:
        """Queue a job for each of up to 64 specs on one snapshot, all of them or none; the same `key` finds them again.

        A snapshot that is stored already is named by its id.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        named = snapshot if isinstance(snapshot, str) else None
        text = BatchSpec(snapshot=named, specs=list(specs)).model_dump_json(exclude_none=True)
        if isinstance(snapshot, str):
            headers["Content-Type"] = "application/json"
            reply = self._channel.request("POST", "/v1/batches", content=text.encode(), headers=headers)
        else:
            files = {"snapshot": ("snapshot.safetensors", _bytes(snapshot), BINARY)}
            reply = self._channel.request("POST", "/v1/batches", data={"batch": text}, files=files, headers=headers)
        return _read(BatchStatus, reply)

    def batch(self, batch_id: str, wait: float | None = None) -> BatchStatus:
        """A batch's jobs, best result first; with `wait`, hold on for as many seconds (at most 60) for all to finish.

        Values can be compared within one of its groups, whose jobs minimise the same.
        """
        held = 0.0 if wait is None else min(max(wait, 0.0), MAX_WAIT_S)
        params = {"wait": held} if held else {}
        reply = self._channel.request("GET", f"/v1/batches/{batch_id}", patience_s=held, params=params)
        return _read(BatchStatus, reply)

    def cancel_batch(self, batch_id: str) -> BatchStatus:
        """Ask for all jobs of a batch to end; those that run keep their incumbents."""
        return _read(BatchStatus, self._channel.request("DELETE", f"/v1/batches/{batch_id}"))

    def job(self, job_id: str, wait: float | None = None) -> JobStatus:
        """A job's record; with `wait`, hold on for as many seconds (at most 60) for it to finish.

        PoolUnavailableError, too, where the answer is about another job: connections were mixed up on the way.
        """
        held = 0.0 if wait is None else min(max(wait, 0.0), MAX_WAIT_S)
        params = {"wait": held} if held else {}
        found = _read(JobStatus, self._channel.request("GET", f"/v1/jobs/{job_id}", patience_s=held, params=params))
        if found.id != job_id:
            raise PoolUnavailableError(f"{self.url} was asked about job {job_id}, and answered about {found.id}")
        return found

    def wait(self, job_id: str, timeout: float | None = None) -> JobStatus:
        """Wait until a job has ended; WaitTimeoutError after `timeout` seconds (the job goes on)."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = MAX_WAIT_S if until is None else until - time.monotonic()
            status = self.job(job_id, wait=max(left, 0.0))
            if status.state.terminal:
                return status
            if until is not None and time.monotonic() >= until:
                raise WaitTimeoutError(f"job {job_id} is still {status.state} after {timeout:g} s; it goes on")

    def events(self, job_id: str, after: str | None = None) -> Iterator[JobEvent]:
        """What happens to a job as it happens: `state`, `incumbent` and `log` events, until its terminal state.

        Begins after the event with the id `after`, else at the beginning. A lost connection is resumed where it was;
        raises PoolUnavailableError when that fails too often in a row.
        """
        failures = 0
        while True:
            lost: PoolUnavailableError | None = None
            try:
                headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
                lines = self._channel.lines(f"/v1/jobs/{job_id}/events", headers)
                if lines is None:
                    return
                with contextlib.closing(lines):
                    for event in read_events(lines):
                        failures, after = 0, event.id or after
                        yield event
                        if event.kind == "state" and State(event.data["state"]).terminal:
                            return
            except PoolUnavailableError as error:
                lost = error
            failures += 1
            if not self._channel.rest(failures):
                raise lost or PoolUnavailableError(f"the pool at {self.url} keeps ending the events of job {job_id}")

    def result(self, job_id: str) -> Candidate:
        """A finished job's weights; ResultUnavailableError while it is unfinished, has none, or has expired."""
        try:
            reply = self._channel.request("GET", f"/v1/jobs/{job_id}/result")
        except PoolRefusedError as error:
            if error.code in ("no_result", "not_finished", "gone"):
                raise ResultUnavailableError(str(error)) from error
            raise
        try:
            return Candidate.from_bytes(reply.content)
        except ResultError as error:
            raise ResultUnavailableError(f"the pool's result {error.detail}") from error

    def log(self, job_id: str) -> str:
        """What the solver has said of a job so far, each attempt under its heading; of a long log the middle is gone.

        `events` tells it as it grows: `log` events whose `source` is `solver`.
        """
        return self._channel.request("GET", f"/v1/jobs/{job_id}/log").text

    def cancel(self, job_id: str) -> JobStatus | None:
        """Ask for a job to end; a running one keeps its incumbent. Returns its record if the pool sends one."""
        reply = self._channel.request("DELETE", f"/v1/jobs/{job_id}")
        return _read(JobStatus, reply) if reply.content else None

    def feedback(self, job_id: str, verdict: Feedback) -> None:
        """Tell the pool what became of a job's weights."""
        content = verdict.model_dump_json(exclude_none=True).encode()
        headers = {"Content-Type": "application/json"}
        self._channel.request("POST", f"/v1/jobs/{job_id}/feedback", content=content, headers=headers)

    def jobs(self, run: str | None = None, state: State | str | None = None, limit: int = 20) -> list[JobStatus]:
        """The newest jobs, of one run or in one state if given."""
        wanted = {"run": run, "state": str(state) if state else None, "limit": limit}
        params = {name: value for name, value in wanted.items() if value is not None}
        return _read(JobList, self._channel.request("GET", "/v1/jobs", params=params)).jobs

    def workers(self) -> list[WorkerInfo]:
        """The pool's live solver workers."""
        return _read(WorkerList, self._channel.request("GET", "/v1/workers")).workers

    def stats(self) -> Stats:
        """The pool at a glance."""
        return _read(Stats, self._channel.request("GET", "/v1/stats"))

    def ready(self) -> bool:
        """True when the gateway says that jobs would be solved now; it is asked once, without retries."""
        try:
            self._channel.request("GET", "/readyz", tries=1)
        except (PoolUnavailableError, PoolRefusedError):
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_events(lines: Iterable[str]) -> Iterator[JobEvent]:
    """Read server-sent events; comments, and events that nobody here knows, are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            with contextlib.suppress(KeyError, ValueError):
                yield JobEvent(id=fields.get("id"), kind=fields["event"], data=json.loads(fields["data"]))
            fields = {}


def _readable(url: str) -> str:
    """A URL without blanks around it, if it can be read; ValueError otherwise, with an example."""
    url = url.strip()
    try:
        readable = (httpx.URL(url).port or 0) <= LAST_PORT
    except (httpx.InvalidURL, ValueError):
        readable = False
    if not readable:
        raise ValueError(f"the gateway's URL is {url!a:.200}; use one like http://gateway:8000")
    return url


def _bytes(snapshot: Snapshot | bytes) -> bytes:
    return snapshot.to_bytes() if isinstance(snapshot, Snapshot) else snapshot


def _read(kind: type[AnswerType], reply: httpx.Response) -> AnswerType:
    try:
        return kind.model_validate_json(reply.content)
    except pydantic.ValidationError as error:
        raise PoolUnavailableError(f"{reply.url} does not answer like a GDSolver pool: {error}") from error
