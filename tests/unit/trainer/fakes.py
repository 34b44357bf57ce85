"""A hand-written solver pool behind httpx's transport seam: it stores, queues and "solves" as a test tells it to."""

import email
import email.policy
import hashlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from shared.batches import BatchSpec
from shared.contracts import JobResult, JobSpec
from shared.snapshot import Snapshot
from trainer.pool.client import SolverClient

Tensors = dict[str, NDArray[np.float32]]
Solve = Callable[[Snapshot, JobSpec], Tensors]
Suspects = Callable[[Snapshot], list[dict[str, Any]]]


def unchanged(snapshot: Snapshot, spec: JobSpec) -> Tensors:
    """Give the snapshot's own weights back."""
    return {"weight": snapshot.weight} | ({} if snapshot.bias is None else {"bias": snapshot.bias})


def least_squares(snapshot: Snapshot, spec: JobSpec) -> Tensors:
    """Fit the final layer to the targets (one-hot for classes) by least squares, clipped into the box."""
    targets = snapshot.targets
    if snapshot.task == "classification":
        targets = 10.0 * np.eye(snapshot.outputs)[targets]
    targets = targets.reshape(snapshot.samples, -1) - (0 if snapshot.offset is None else snapshot.offset)
    full = np.hstack([snapshot.inputs, np.ones((snapshot.samples, 1))])
    solution = np.linalg.lstsq(full, targets, rcond=None)[0].T
    box = snapshot.radius if snapshot.radius is not None else spec.radius
    weight = np.clip(solution[:, :-1], snapshot.weight - box, snapshot.weight + box)
    answer = {"weight": weight.astype(np.float32)}
    if snapshot.bias is not None:
        wide = box if snapshot.bias_radius is None else snapshot.bias_radius
        answer["bias"] = np.clip(solution[:, -1], snapshot.bias - wide, snapshot.bias + wide).astype(np.float32)
    return answer


class FakePool(httpx.BaseTransport):
    """A pool in memory.

    `solve` makes the answers, `suspects` what they tell of samples; jobs stay running until `release` is set; while
    `down`, nobody answers; responses in `script` are given first; `requests` holds everything that was asked,
    `feedback` and `cancelled` what came of it.
    """

    def __init__(self, solve: Solve = unchanged, *, held: bool = False) -> None:
        self.solve = solve
        self.release = threading.Event()
        if not held:
            self.release.set()
        self.down = False
        self.improved = True
        self.suspects: Suspects = lambda _: []
        self.script: list[httpx.Response] = []
        self.requests: list[httpx.Request] = []
        self.snapshots: list[Snapshot] = []
        self.specs: list[JobSpec] = []
        self.feedback: dict[str, dict[str, Any]] = {}
        self.cancelled: list[str] = []
        self.submitted = threading.Event()
        self.told = threading.Event()
        self._blobs: dict[str, bytes] = {}
        self._by_key: dict[str, str] = {}
        self._jobs: dict[str, tuple[str, JobSpec]] = {}

    def client(self, **options: Any) -> SolverClient:
        """A client of this pool that does not pause between tries."""
        return SolverClient("http://pool.test", transport=self, **({"sleep": lambda _: None, "retries": 2} | options))

    def handle_request(self, request: httpx.Request) -> httpx.Response:  # noqa: PLR0911
        """Answer like a gateway."""
        request.read()
        self.requests.append(request)
        if self.down:
            raise httpx.ConnectError("connection refused", request=request)
        if self.script:
            return self.script.pop(0)
        match request.method, request.url.path.strip("/").split("/"):
            case "GET", ["readyz"]:
                return httpx.Response(200, json={})
            case "POST", ["v1", "snapshots"]:
                blob = self._store(request.content)
                return httpx.Response(201, json={"id": blob, "bytes": len(request.content), "shapes": {}})
            case "POST", ["v1", "jobs"]:
                return self._submit(request, JobSpec.model_validate_json(request.content), None)
            case "POST", ["v1", "solve"]:
                spec, snapshot = _parts(request)
                return self._submit(request, JobSpec.model_validate_json(spec), self._store(snapshot))
            case "POST", ["v1", "batches"]:
                return self._submit_batch(request)
            case "GET", ["v1", "jobs"]:
                return httpx.Response(200, json={"jobs": [self._record(job) for job in reversed(self._jobs)]})
            case "GET", ["v1", "workers"]:
                return httpx.Response(200, json={"workers": [], "new_field": 1})
            case "GET", ["v1", "stats"]:
                figures = {"queued": 0, "running": 1, "states": {}, "workers": 1, "slots": 1}
                return httpx.Response(200, json=figures)
            case method, ["v1", "jobs", job, *rest] if job in self._jobs:
                return self._about(method, job, rest, request)
        return problem(404, "not_found", "no such thing")

    def _about(self, method: str, job: str, rest: list[str], request: httpx.Request) -> httpx.Response:  # noqa: PLR0911
        match method, rest:
            case "GET", []:
                return httpx.Response(200, json=self._record(job))
            case "GET", ["events"]:
                state = json.dumps({"state": self._record(job)["state"], "attempt": 1, "worker": "w"})
                told = 'id: 1-0\nevent: log\ndata: {"message": "begun"}\n\n'
                log = 'id: 1-1\nevent: log\ndata: {"message": "0.1 s  start\\n", "attempt": 1, "source": "solver"}\n\n'
                return httpx.Response(200, text=f"{told}{log}id: 2-0\nevent: state\ndata: {state}\n\n")
            case "GET", ["log"]:
                return httpx.Response(200, text="0.1 s  start\n")
            case "GET", ["result"] if self.release.is_set():
                return httpx.Response(200, content=self._result(job))
            case "GET", ["result"]:
                return problem(409, "not_finished", "the job is still running")
            case "DELETE", []:
                self.cancelled.append(job)
                return httpx.Response(202, json=self._record(job))
            case "POST", ["feedback"]:
                self.feedback[job] = json.loads(request.content)
                self.told.set()
                return httpx.Response(200, json=self._record(job))
        return problem(405, "method_not_allowed", "not so")

    def _store(self, data: bytes) -> str:
        self.snapshots.append(Snapshot.from_bytes(data))
        name = hashlib.sha256(data).hexdigest()
        self._blobs[name] = data
        return name

    def _submit_batch(self, request: httpx.Request) -> httpx.Response:
        text, snapshot = _parts(request)
        specs, blob = BatchSpec.model_validate_json(text).specs, self._store(snapshot)
        token = request.headers["Idempotency-Key"]
        for number, spec in enumerate(specs):
            self._submit(request, spec, blob, key=f"{token} {number}")
        jobs = [
            {"id": self._by_key[f"{token} {number}"], "number": number, "state": "queued"}
            for number, _ in enumerate(specs)
        ]
        status = {"id": "batch-1", "created": datetime.now(UTC).isoformat(), "snapshot": blob, "ended": False}
        group = {"objective": specs[0].objective, "jobs": jobs[::-1]}
        return httpx.Response(202, json=status | {"counts": {"queued": len(jobs)}, "groups": [group]})

    def _submit(
        self, request: httpx.Request, spec: JobSpec, blob: str | None, key: str | None = None
    ) -> httpx.Response:
        key = key or request.headers["Idempotency-Key"]
        if key not in self._by_key:
            job = self._by_key[key] = f"job-{len(self._jobs) + 1}"
            self._jobs[job] = (blob or str(spec.snapshot), spec)
            self.specs.append(spec)
        self.submitted.set()
        return httpx.Response(202, json=self._record(self._by_key[key]))

    def _record(self, job: str) -> dict[str, Any]:
        blob, spec = self._jobs[job]
        done = self.release.is_set()
        record: dict[str, Any] = {
            "id": job,
            "state": "succeeded" if done else "running",
            "snapshot": blob,
            "spec": spec.model_dump(mode="json"),
            "created": datetime.now(UTC).isoformat(),
            "a_field_from_the_future": True,
        }
        return record | ({"result": self._report(blob, spec).model_dump(mode="json")} if done else {})

    def _report(self, blob: str, spec: JobSpec) -> JobResult:
        return JobResult.model_validate(
            {
                "objective": {"name": spec.objective, "start": 2.0, "final": 1.0, "bound": 0.0, "gap": 1.0},
                "status": "optimal",
                "improved": self.improved,
                "changed_weights": 1,
                "timings": {},
                "sizes": {},
                "nodes": 1,
                "incumbents": [],
                "suspects": self.suspects(Snapshot.from_bytes(self._blobs[blob])),
                "backend": {"name": "fake", "version": "1"},
            }
        )

    def _result(self, job: str) -> bytes:
        blob, spec = self._jobs[job]
        tensors = {
            name: np.ascontiguousarray(values, dtype=np.float32)
            for name, values in self.solve(Snapshot.from_bytes(self._blobs[blob]), spec).items()
        }
        return bytes(safetensors.numpy.save(tensors, metadata={"result": self._report(blob, spec).model_dump_json()}))


def problem(status: int, code: str, detail: str, **more: Any) -> httpx.Response:
    """A problem+json response; `headers` among `more` are its headers."""
    headers = {"Content-Type": "application/problem+json"} | more.pop("headers", {})
    body = {"title": code, "status": status, "code": code, "detail": detail} | more
    return httpx.Response(status, content=json.dumps(body), headers=headers)


def _parts(request: httpx.Request) -> tuple[bytes, bytes]:
    """The parts of a multipart body: `spec` or `batch`, and `snapshot`."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.content, policy=email.policy.HTTP)
    parts = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.iter_parts()  # type: ignore[attr-defined]
    }
    return parts.get("spec", parts.get("batch")), parts["snapshot"]
