"""Whether strangers may come in, and how many wrong keys came from where: what one gateway process remembers."""

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from solver_service.errors import ServiceError, StoreUnavailableError
from solver_service.settings import Settings
from solver_service.store.apikeys import ApiKeyStore

KNOWN_FOR_S = 1.0
WINDOW_S = 60.0
MAX_ADDRESSES = 10_000


class OpenDoorError(ServiceError):
    """Others could reach a gateway that nobody needs a key for; the message says what to do."""


def require_a_key(settings: Settings, stored: ApiKeyStore) -> None:
    """Raise OpenDoorError off loopback, unless there is a key that opens: the settings' one, or a stored one."""
    if settings.on_loopback or settings.key is not None:
        return
    try:
        if stored.all():
            return
        why = "without an API key"
    except StoreUnavailableError as error:
        why = f"without GDSOLVER_API_KEY while Redis cannot be asked for stored keys ({error})"
    raise OpenDoorError(
        f"refusing to listen on {settings.host} {why}: make one with `gdsolver-pool keys add NAME`, or set "
        'GDSOLVER_API_KEY (for instance to the output of `python -c "import secrets; print(secrets.token_urlsafe(32))"'
        "`), or use --host 127.0.0.1"
    )


class Door:
    """Keyless only on loopback, without a key in the settings, and before any key was stored."""

    def __init__(self, *, may_be_keyless: bool, keys_in_use: Callable[[], bool]) -> None:
        self._keyless = may_be_keyless
        self._keys_in_use = keys_in_use
        self._asked = -math.inf

    @property
    def known_keyless(self) -> bool:
        """Whether Redis said so less than a second ago, so that it need not be asked."""
        return self._keyless and time.monotonic() - self._asked <= KNOWN_FOR_S

    def keyless(self) -> bool:
        """Whether callers need no key; as Redis said at most a second ago, and for good once it is False."""
        if self._keyless and not self.known_keyless:
            self._keyless = not self._keys_in_use()
            self._asked = time.monotonic()
        return self._keyless


class Failures:
    """Counts wrong keys by address. In memory, so that a loop of guesses costs nothing but its own requests."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Seconds until this address may try again; 0 when it may now."""
        with self._lock:
            count, until = self._seen.get(_network(address), (0, 0.0))
        return max(0, math.ceil(until - self._clock())) if count >= self._most else 0

    def note(self, address: str) -> bool:
        """Count one more wrong key, and say whether it is the one too many; after a minute the count begins anew."""
        name, now = _network(address), self._clock()
        with self._lock:
            count, until = self._seen.pop(name, (0, 0.0))
            count, until = (count + 1, until) if now < until else (1, now + WINDOW_S)
            self._seen[name] = count, until
            if len(self._seen) > MAX_ADDRESSES:
                self._seen.popitem(last=False)
        return count == self._most


def _network(address: str) -> str:
    """An IPv6 address' /64, since one machine has all of it; any other address as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
