"""What the routes are given: the store, the limits, and who is let in."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from solver_service.gateway.door import Door, Failures
from solver_service.gateway.download import Downloads
from solver_service.gateway.observed import Traffic
from solver_service.gateway.readiness import Readiness
from solver_service.gateway.shares import Shares
from solver_service.gateway.turns import Turns
from solver_service.settings import Settings
from solver_service.store import Store


@dataclass(frozen=True)
class Services:
    """One gateway's collaborators."""

    store: Store
    settings: Settings
    keys_seen: Path | None = None
    """A file that is there once a gateway that shares the port has seen an API key: then all of them ask for one."""

    @property
    def key(self) -> str | None:
        """The API key of the settings, if any; it has all scopes."""
        return self.settings.key

    @cached_property
    def door(self) -> Door:
        """Whether callers need a key."""
        keyless = self.key is None and self.settings.on_loopback and not self.settings.require_keys
        return Door(may_be_keyless=keyless, keys_in_use=self._keys_in_use)

    def _keys_in_use(self) -> bool:
        if self.keys_seen is not None and self.keys_seen.exists():
            return True
        found = self.store.apikeys.in_use()
        if found and self.keys_seen is not None:
            self.keys_seen.touch()
        return found

    @cached_property
    def readiness(self) -> Readiness:
        """Whether a job posted now would be solved."""
        return Readiness(self.store)

    @cached_property
    def turns(self) -> Turns:
        """How much submitting goes on at once."""
        return Turns()

    @cached_property
    def traffic(self) -> Traffic:
        """What this gateway has answered."""
        return Traffic()

    @cached_property
    def uploads(self) -> Shares:
        """The bytes that are on their way from clients."""
        return Shares(self.settings.max_body_bytes_in_flight)

    @cached_property
    def downloads(self) -> Downloads:
        """The bytes that are on their way to clients."""
        return Downloads()

    @cached_property
    def failures(self) -> Failures:
        """The wrong keys that came lately."""
        return Failures(self.settings.max_failed_logins)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Injected = Annotated[Services, Depends(_services)]
