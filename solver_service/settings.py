"""The service's settings: flags, then GDSOLVER_* variables, then these defaults; built at entry points only."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from solver_service.sentinel import sentinels

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """What gateway and worker need to know; durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="GDSOLVER_", frozen=True, extra="ignore")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", pattern=r"^(redis|rediss|unix|redis\+sentinel)://.+")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    require_keys: bool = False

    max_body_bytes: int = Field(default=256 * MEBIBYTE, gt=0)
    max_json_bytes: int = Field(default=MEBIBYTE, gt=0)
    max_body_bytes_in_flight: int = Field(default=384 * MEBIBYTE, gt=0)
    body_grace_s: float = Field(default=10.0, gt=0)
    body_s_per_mebibyte: float = Field(default=10.0, gt=0)
    headers_within_s: float = Field(default=10.0, gt=0)
    unread_s: float = Field(default=10.0, gt=0)
    max_submissions_per_minute: int = Field(default=600, gt=0)
    max_unfinished_per_key: int = Field(default=1000, gt=0)
    max_stored_bytes: int = Field(default=8192 * MEBIBYTE, gt=0)
    max_stored_bytes_per_key: int = Field(default=4096 * MEBIBYTE, gt=0)
    max_failed_logins: int = Field(default=20, gt=0)
    max_queued: int = Field(default=10_000, gt=0)
    keep_record_s: int = Field(default=7 * 86400, gt=0)
    keep_blob_s: int = Field(default=86400, gt=0)

    worker_memory_mb: int | None = Field(default=None, ge=500)

    lease_s: float = Field(default=10.0, gt=0)
    heartbeat_s: float = Field(default=2.0, gt=0)
    watch_s: float = Field(default=0.5, gt=0)
    republish_s: float = Field(default=10.0, gt=0)

    @field_validator("redis_url")
    @classmethod
    def _readable(cls, url: str) -> str:
        """A password with characters of its own meaning in a URL splits it elsewhere than it was meant to."""
        if sentinels(url) is not None or url.startswith("unix://"):
            return url
        try:
            parts = urlsplit(url)
            split = "@" in parts.path + parts.query + parts.fragment
        except ValueError:  # a bracket that opens no address
            split = True
        if split:
            raise ValueError(
                "cannot be read; write a password with characters such as / # ? @ : in percent-encoding, as "
                "`python -c \"import urllib.parse; print(urllib.parse.quote(input(), safe=''))\"` prints it"
            )
        try:
            parts.port  # noqa: B018 (it is read to be checked)
        except ValueError as error:
            raise ValueError("its port is no number from 0 to 65535") from error
        return url

    @field_validator("api_key")
    @classmethod
    def _sendable(cls, key: SecretStr | None) -> SecretStr | None:
        """Clients send what they make of it: without spaces around it, and in ASCII alone."""
        text = "" if key is None else key.get_secret_value()
        bare = text.strip()
        if text and not (bare and bare.isascii() and bare.isprintable()):
            raise ValueError(
                "a key has to be printable ASCII, for instance the output of "
                '`python -c "import secrets; print(secrets.token_urlsafe(32))"`'
            )
        return key and SecretStr(bare)

    @property
    def key(self) -> str | None:
        """The API key as text; an empty variable counts as none."""
        return (self.api_key.get_secret_value() or None) if self.api_key else None

    def environment(self, outer: Mapping[str, str]) -> dict[str, str]:
        """An environment in which a child process has these settings, whatever `outer`, its parent's, says of them."""
        names = {f"{self.model_config['env_prefix']}{name.upper()}": value for name, value in self}
        others = {name: value for name, value in outer.items() if name.upper() not in names}
        told = {name: value for name, value in names.items() if value is not None}
        return others | {name: v.get_secret_value() if isinstance(v, SecretStr) else str(v) for name, v in told.items()}

    @property
    def on_loopback(self) -> bool:
        """Whether the gateway listens on this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
