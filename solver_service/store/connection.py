"""One way to reach Redis, and the one place where its errors become ours."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import redis

from solver_service.errors import StoreFullError, StoreRefusedError, StoreUnavailableError

P = ParamSpec("P")
T = TypeVar("T")


def connect(url: str) -> redis.Redis:
    """Make a client for `redis://...` or `unix:///path.sock`; connects at first use."""
    return redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=3, health_check_interval=15)


def translated(call: Callable[P, T]) -> Callable[P, T]:
    """Raise StoreUnavailableError for whatever Redis or the way to it raises."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except redis.AuthenticationError as error:
            detail = f"Redis refuses the user or the password of the Redis URL: {error}"
            raise StoreRefusedError(detail) from error
        except redis.ResponseError as error:
            # A script passes Redis' own word on inside another error.
            full = isinstance(error, redis.OutOfMemoryError) or "OOM command not allowed" in str(error)
            raise (StoreFullError if full else StoreUnavailableError)(f"Redis: {error}") from error
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailableError(f"Redis: {error}") from error

    return wrapper


def names(items: Iterable[Any]) -> list[str]:
    """Redis' members as text (its client types them as nearly anything)."""
    return [item.decode() for item in items]


def payload(value: Any) -> bytes | None:
    """Redis' value as bytes, or None."""
    return None if value is None else bytes(value)
