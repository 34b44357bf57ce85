"""One way to reach Redis, and the one place where its errors become ours."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import redis
from redis.sentinel import Sentinel

from solver_service.errors import StoreDiskError, StoreFullError, StoreRefusedError, StoreUnavailableError
from solver_service.sentinel import sentinels

P = ParamSpec("P")
T = TypeVar("T")


def connect(url: str) -> redis.Redis:
    """Make a client for `redis://...`, `unix:///path.sock` or `redis+sentinel://...`; connects at first use."""
    limits = {"socket_timeout": 10, "socket_connect_timeout": 3}
    known = sentinels(url)
    if known is None:
        return redis.Redis.from_url(url, health_check_interval=15, **limits)
    guards = {**limits, "password": known.password}
    asked: Any = Sentinel(list(known.hosts), sentinel_kwargs=guards, **limits)  # type: ignore[no-untyped-call]
    master: redis.Redis = asked.master_for(known.name, db=known.db, password=known.password, health_check_interval=15)
    return master


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
            raise _refusal(error) from error
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailableError(f"Redis: {error}") from error

    return wrapper


def _refusal(error: redis.ResponseError) -> StoreUnavailableError:
    """What an error of Redis' own means; a script passes its word on inside another error."""
    if isinstance(error, redis.OutOfMemoryError) or "OOM command not allowed" in str(error):
        return StoreFullError(f"Redis: {error}")
    if "MISCONF" in str(error):
        cure = "make room on the disk of the data folder (of `gdsolver-pool up`: its --data-dir)"
        return StoreDiskError(f"Redis cannot write to its disk; {cure}. Redis: {error}")
    return StoreUnavailableError(f"Redis: {error}")


def names(items: Iterable[Any]) -> list[str]:
    """Redis' members as text (its client types them as nearly anything); what is no text names nothing."""
    return [item.decode() for item in items if is_text(item)]


def is_text(item: Any) -> bool:
    """Whether a member is UTF-8, as all are that a pool has written."""
    try:
        bytes(item).decode()
    except UnicodeDecodeError:
        return False
    return True


def payload(value: Any) -> bytes | None:
    """Redis' value as bytes, or None."""
    return None if value is None else bytes(value)
