"""The service's settings: flags, then GDSOLVER_* variables, then these defaults; built at entry points only."""

import ipaddress

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """What gateway and worker need to know; durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="GDSOLVER_", frozen=True, extra="ignore")

    redis_url: str = "redis://127.0.0.1:6379/0"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None

    max_body_bytes: int = 256 * MEBIBYTE
    max_json_bytes: int = 8 * MEBIBYTE
    max_queued: int = 10_000
    keep_record_s: int = 7 * 86400
    keep_blob_s: int = 86400

    lease_s: float = 10.0
    heartbeat_s: float = 2.0
    watch_s: float = 0.5
    republish_s: float = 10.0

    @property
    def key(self) -> str | None:
        """The API key as text; an empty variable counts as none."""
        return (self.api_key.get_secret_value() or None) if self.api_key else None

    @property
    def on_loopback(self) -> bool:
        """Whether the gateway listens on this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
