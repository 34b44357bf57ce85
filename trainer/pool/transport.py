"""Carries one request to the pool: retries with back-off and jitter, and translates what comes back into our errors."""

import contextlib
import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pydantic
import tenacity

from shared.contracts import Problem
from trainer.errors import PoolRefusedError, PoolUnavailableError

BUSY = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class _PassingError(PoolUnavailableError):
    """A failure that may pass: worth another try after `retry_after` seconds."""

    def __init__(self, message: str, problem: Problem | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message, problem)
        self.retry_after = retry_after


class Channel:
    """An HTTP connection to one gateway: of each process its own, as a fork has copies of its parent's sockets.

    `retries` further tries follow a failure that may pass (no connection, 429, 502, 503, 504). The pause doubles each
    time, with jitter from a generator of its own (the global random state belongs to the training run), and is never
    shorter than the gateway's Retry-After; one of more than 30 s is not waited for.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the gateway's URL is {url!r}; use one like http://gateway:8000")
        if parts.path.rstrip("/").endswith("/v1"):
            raise ValueError(f"the gateway's URL is {url!r}; leave out `/v1`, which requests add themselves")
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._retries = retries
        self._sleep = sleep
        self._random = random.SystemRandom()
        self._local = parts.hostname in LOOPBACK
        self._open = partial(
            httpx.Client,
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            transport=transport,
            trust_env=not self._local,  # a proxy cannot reach this machine's own loopback
        )
        self._clients = {os.getpid(): self._open()}

    @property
    def _client(self) -> httpx.Client:
        """This process's; those of the processes that it was forked from are left alone, and not closed either."""
        process = os.getpid()
        if process not in self._clients:
            self._clients[process] = self._open()
        return self._clients[process]

    def request(
        self, method: str, path: str, *, patience_s: float = 0.0, tries: int | None = None, **content: Any
    ) -> httpx.Response:
        """Send one request, which must be safe to repeat, and return its successful answer.

        `patience_s` is how long the gateway was asked to hold the answer back (long poll), `tries` overrides the
        channel's number of tries. Raises
        PoolUnavailableError when no try came through, PoolRefusedError when the pool said no.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries or self._retries + 1),
            retry=tenacity.retry_if_exception(_worth_another_try),
            wait=self._pause,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self._once, method, path, patience_s, content)

    def _once(self, method: str, path: str, patience_s: float, content: dict[str, Any]) -> httpx.Response:
        timeout = httpx.Timeout(self._timeout, read=self._timeout + patience_s)
        try:
            response = self._client.request(method, path, timeout=timeout, **content)
        except httpx.TransportError as error:
            hint = (
                "; start one with `gdsolver-pool up`" if self._local and isinstance(error, httpx.ConnectError) else ""
            )
            said = f"no answer from the pool at {self.url}: {error or type(error).__name__}{hint}"
            raise _PassingError(said) from error
        except httpx.HTTPError as error:
            raise PoolUnavailableError(f"no readable answer from the pool at {self.url}: {error}") from error
        if response.is_success:
            return response
        raise _error(self.url, response)

    def lines(self, path: str, headers: Mapping[str, str]) -> Generator[str, None, None] | None:
        """Open a stream once and return its lines as they come; None when there is nothing (more) to come.

        Raises PoolUnavailableError, now or between lines, when it is lost; the caller knows where to go on.
        """
        request = self._client.build_request("GET", path, headers=dict(headers), timeout=self._timeout)
        try:
            response = self._client.send(request, stream=True)
            if response.is_success:
                if response.status_code == httpx.codes.NO_CONTENT:
                    response.close()
                    return None
                return self._read_lines(response)
            response.read()
        except httpx.HTTPError as error:
            raise PoolUnavailableError(f"no answer from the pool at {self.url}: {error}") from error
        raise _error(self.url, response)

    def _read_lines(self, response: httpx.Response) -> Generator[str, None, None]:
        try:
            yield from response.iter_lines()
        except httpx.HTTPError as error:
            raise PoolUnavailableError(f"the pool at {self.url} was lost: {error}") from error
        finally:
            response.close()

    def rest(self, number: int) -> bool:
        """Sleep before the next try after `number` failures in a row; False when there have been enough."""
        if number > self._retries:
            return False
        self._sleep(self._jittered(number))
        return True

    def _pause(self, state: tenacity.RetryCallState) -> float:
        jitter = self._jittered(state.attempt_number)
        error = state.outcome.exception() if state.outcome else None
        return error.retry_after + jitter if isinstance(error, _PassingError) else jitter

    def _jittered(self, number: int) -> float:
        doubled = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (number - 1))
        return doubled * self._random.uniform(0.5, 1.0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, _PassingError) and error.retry_after <= LONGEST_PAUSE_S


def _error(url: str, response: httpx.Response) -> PoolRefusedError | PoolUnavailableError:
    """What an unsuccessful response means."""
    problem = None
    with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError, pydantic.ValidationError):
        problem = Problem.model_validate(response.json())
    said = problem.detail if problem else f"HTTP {response.status_code} {response.reason_phrase}"
    if response.status_code in BUSY:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        return _PassingError(f"the pool at {url} cannot take this now: {said}", problem, wait)
    if problem:
        return PoolRefusedError(problem)
    return PoolUnavailableError(f"{url} does not answer like a GDSolver pool: {said}")


def _retry_after(text: str) -> float:
    """Seconds to wait, from a Retry-After header's number or date; 0 when it says nothing."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
