"""What the routes are given: the store, the way to publish, and the limits."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from solver_service.queue import Publish
from solver_service.settings import Settings
from solver_service.store import Store


@dataclass(frozen=True)
class Services:
    """One gateway's collaborators."""

    store: Store
    publish: Publish
    settings: Settings

    @property
    def key(self) -> str | None:
        """The API key that callers must send, if any."""
        return self.settings.key


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Injected = Annotated[Services, Depends(_services)]
