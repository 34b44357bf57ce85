"""Whether a job posted now would be solved: looked at once a second, however many strangers ask."""

import asyncio
import math
import time

from starlette.concurrency import run_in_threadpool

from solver_service.errors import StoreDiskError, StoreUnavailableError
from solver_service.store import Store

KNOWN_FOR_S = 1.0


class Readiness:
    """Remembers the last look; for one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looking = asyncio.Lock()
        self._looked = -math.inf
        self._why_not: str | None = None

    async def why_not(self) -> str | None:
        """What is missing, as it was at most a second ago; None when nothing is."""
        async with self._looking:
            if time.monotonic() - self._looked > KNOWN_FOR_S:
                self._why_not = await run_in_threadpool(self._look)
                self._looked = time.monotonic()
        return self._why_not

    def _look(self) -> str | None:
        try:
            self._store.ping()
            return None if self._store.workers.any_alive() else "no solver worker has a fresh heartbeat"
        except StoreDiskError:
            return "Redis cannot write to its disk: make room on the disk of the data folder"
        except StoreUnavailableError:
            return "Redis does not answer"
