"""API keys in Redis, by id; asked for at every request, so that a revoked key is refused at once."""

from dataclasses import dataclass
from typing import Any

import redis
import structlog
from pydantic import ValidationError

from solver_service.rules.owners import ApiKey
from solver_service.store import keys
from solver_service.store.connection import payload, translated

log = structlog.get_logger()


class KeyNameTakenError(ValueError):
    """Another key has this name."""


@dataclass(frozen=True)
class ApiKeyStore:
    """All stored keys of one Redis."""

    redis: redis.Redis

    @translated
    def add(self, key: ApiKey) -> None:
        """Store a key; from the first one on, every gateway on this Redis asks for keys, even if all are revoked."""
        if any(key.name in (other.name, other.id) for other in self.all()):
            raise KeyNameTakenError(key.name)
        with self.redis.pipeline() as pipe:
            pipe.hset(keys.API_KEYS, key.id, key.model_dump_json())
            pipe.set(keys.API_KEYS_IN_USE, "1")
            pipe.execute()

    @translated
    def find(self, key_id: str) -> ApiKey | None:
        """Read one key; one that cannot be read opens nothing, and is as good as none."""
        data = payload(self.redis.hget(keys.API_KEYS, key_id))
        return None if data is None else _read(key_id, data)

    @translated
    def all(self) -> list[ApiKey]:
        """Read all keys that can be read, oldest first."""
        return self._all(keys.API_KEYS)

    @translated
    def revoked(self) -> list[ApiKey]:
        """Read the keys that were revoked and not purged; their data may have expired since."""
        return self._all(keys.API_KEYS_REVOKED)

    def _all(self, stored_as: str) -> list[ApiKey]:
        stored: dict[Any, Any] = self.redis.hgetall(stored_as)
        found = [_read(bytes(name).decode(errors="replace"), data) for name, data in stored.items()]
        return sorted((key for key in found if key is not None), key=lambda key: key.created)

    @translated
    def revoke(self, name_or_id: str) -> ApiKey | None:
        """Have a key open nothing from now on; None when there is none of that name or id."""
        for key in self.all():
            if name_or_id in (key.name, key.id):
                with self.redis.pipeline() as pipe:
                    pipe.hdel(keys.API_KEYS, key.id)
                    pipe.hset(keys.API_KEYS_REVOKED, key.id, key.model_dump_json())
                    pipe.execute()
                return key
        return None

    @translated
    def forget(self, owner: str) -> None:
        """Forget the revoked keys of an owner who has nothing left."""
        gone = [key.id for key in self.revoked() if key.owner == owner]
        if gone:
            self.redis.hdel(keys.API_KEYS_REVOKED, *gone)

    @translated
    def in_use(self) -> bool:
        """Whether a key was ever stored here."""
        return bool(self.redis.exists(keys.API_KEYS_IN_USE))


def _read(key_id: str, data: bytes) -> ApiKey | None:
    try:
        return ApiKey.model_validate_json(data)
    except ValidationError:
        log.error("an API key cannot be read: it opens nothing", key=key_id)
        return None
