"""URLs of a Redis that Sentinels name: `redis+sentinel://[:PASSWORD@]HOST:PORT,HOST:PORT/NAME/DB`."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

SCHEME = "redis+sentinel://"
_URL = re.compile(
    r"redis\+sentinel://(?::(?P<password>[^@/?#]*)@)?(?P<hosts>[^@/?#]+)/(?P<name>[A-Za-z0-9._-]+)(?:/(?P<db>\d+))?"
)


@dataclass(frozen=True)
class Sentinels:
    """Who knows which Redis is the master just now; the password is Redis', and the Sentinels' own if they have one."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    db: int
    password: str | None


def sentinels(url: str) -> Sentinels | None:
    """Read such a URL; None for any other. ValueError for one that cannot be read."""
    if not url.startswith(SCHEME):
        return None
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"expected {SCHEME}[:PASSWORD@]HOST:PORT,HOST:PORT/NAME/DB")
    hosts = []
    for part in found["hosts"].split(","):
        host, _, port = part.rpartition(":") if ":" in part else (part, "", "26379")
        hosts.append((host, int(port)))
    password = None if found["password"] is None else unquote(found["password"])
    return Sentinels(tuple(hosts), found["name"], int(found["db"] or 0), password)
