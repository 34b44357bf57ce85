"""Who may ask for what: API keys, their scopes, and the owner under whose name a key's things are kept; pure."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from solver_service.rules.numbers import Moment

KEYLESS_OWNER = "local"
_OWNER = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"gds_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Scope(StrEnum):
    """What a key may be used for."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)


class ApiKey(BaseModel):
    """A stored key: everything but the token itself.

    A token holds 256 random bits, so its plain SHA-256 tells nothing and needs no salt and no slow hash.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    scopes: frozenset[Scope]
    owner: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: Moment

    def opens_with(self, token: str) -> bool:
        """Whether this is the token's key, in a time that does not depend on where they differ."""
        return hmac.compare_digest(self.digest, digest(token))


@dataclass(frozen=True)
class Caller:
    """Who is asking: whose things they see, and what they may do."""

    owner: str
    scopes: Collection[Scope]
    key: str = ""


def create_key(name: str, scopes: Collection[Scope], *, now: float, owner: str | None = None) -> tuple[ApiKey, str]:
    """Make a key and its token; it acts for itself, or for the owner that is named."""
    key_id = secrets.token_hex(6)
    token = f"gds_{key_id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=key_id,
        name=name,
        scopes=frozenset(scopes),
        owner=owner or owner_of(token),
        digest=digest(token),
        created=now,
    )
    return key, token


def key_id(token: str) -> str | None:
    """The id in a stored key's token; None for what cannot be one."""
    found = _TOKEN.fullmatch(token)
    return None if found is None else found[1]


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def owner_of(key: str) -> str:
    """The name under which a key's jobs and snapshots are kept; it does not reveal the key."""
    return hashlib.sha256(b"gdsolver owner " + key.encode()).hexdigest()[:16]


def is_owner(name: str) -> bool:
    """Whether things may be kept under this name."""
    return name == KEYLESS_OWNER or _OWNER.fullmatch(name) is not None
