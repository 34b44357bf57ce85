"""API keys in Redis, by id; asked for at every request, so that a revoked key is refused at once."""

from dataclasses import dataclass

import redis

from solver_service.rules.owners import ApiKey
from solver_service.store import keys
from solver_service.store.connection import translated


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
        """Read one key."""
        data = self.redis.hget(keys.API_KEYS, key_id)
        return None if data is None else ApiKey.model_validate_json(data)

    @translated
    def all(self) -> list[ApiKey]:
        """Read all keys, oldest first."""
        found = [ApiKey.model_validate_json(data) for data in self.redis.hvals(keys.API_KEYS)]
        return sorted(found, key=lambda key: key.created)

    @translated
    def revoke(self, name_or_id: str) -> ApiKey | None:
        """Remove a key; None when there is none of that name or id."""
        for key in self.all():
            if name_or_id in (key.name, key.id):
                self.redis.hdel(keys.API_KEYS, key.id)
                return key
        return None

    @translated
    def in_use(self) -> bool:
        """Whether a key was ever stored here."""
        return bool(self.redis.exists(keys.API_KEYS_IN_USE))
