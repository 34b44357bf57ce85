"""What a gateway tells of each request: an id, a count, its time, and an audit line for what changes or refuses."""

import os
import random
import re
import time
from collections.abc import Iterable

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

log = structlog.get_logger()

CALLER, PROBLEM = "gdsolver.caller", "gdsolver.problem"
"""Under these names a request's scope has who was let in (owner, key id), and the code of what went wrong."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
CHANGES = frozenset({"POST", "PUT", "DELETE"})


class Traffic:
    """The counters of one gateway: of its process, or with several, of all of them (see `gateway.processes`)."""

    def __init__(self) -> None:
        self._shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "gdsolver_http_requests", "Requests by route and status.", ["method", "route", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "gdsolver_http_request_seconds", "Time to the answer's end, without those who chose to wait.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._refused = Counter(
            "gdsolver_http_refused", "Requests that got an error, by its code.", ["code"], registry=self._registry
        )
        self._held = Gauge(
            "gdsolver_bytes_in_flight", "Bytes on their way through.", ["direction"],
            registry=self._registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def note(self, method: str, route: str, status: int, code: str | None, seconds: float | None) -> None:
        """Count one request; `seconds` only where it did not wait for a job."""
        name = method, route, status
        if (known := self._known.get(name)) is None:
            known = self._known[name] = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
        known[0].inc()
        if seconds is not None:
            known[1].observe(seconds)
        if code is not None:
            self._refused.labels(code).inc()

    def hold(self, uploads: int, downloads: int) -> None:
        """Note the bytes that this process holds for clients."""
        self._held.labels("in").set(uploads)
        self._held.labels("out").set(downloads)

    def collect(self) -> Iterable[Metric]:
        """The counters as they are."""
        if self._shared:
            return MultiProcessCollector(None, self._shared).collect()  # type: ignore[no-any-return, no-untyped-call]
        return self._registry.collect()


class Observed:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on under an id, which the answer carries, and tell of it afterwards."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The raw headers: this runs for every request, and starlette's own view of them costs more than all the rest.
        sent = dict(scope["headers"])
        asked = sent.get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if REQUEST_ID.fullmatch(asked) else f"{random.getrandbits(64):016x}"
        began, status, location = time.perf_counter(), 0, ""

        async def noted(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                location = next((value.decode("latin-1") for name, value in headers if name == b"location"), "")
                message["headers"] = [*headers, (b"x-request-id", request_id.encode())]
            await send(message)

        bind_contextvars(request=request_id)  # each request has a task, and so a context, of its own
        try:
            await self._app(scope, receive, noted)
        finally:
            waits = b"wait=" in scope.get("query_string", b"") or b"prefer" in sent
            seconds = time.perf_counter() - began
            self._tell(scope, status, location, None if waits else seconds)

    def _tell(self, scope: Scope, status: int, location: str, seconds: float | None) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in CHANGES | {"GET", "HEAD"} else "other"
        code = scope.get(PROBLEM)
        self._traffic.note(method, route, status, code, None if route.endswith("/events") else seconds)
        if method in CHANGES or (code is not None and status in (401, 403, 429)):
            owner, key = scope.get(CALLER, ("", ""))
            about = location or scope["path"]
            client = (scope.get("client") or ("",))[0]
            log.info(
                "audit", method=method, route=route, about=about[:200], status=status, code=code, owner=owner, key=key,
                address=client,
            )  # fmt: skip
