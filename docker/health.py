"""Says by its exit status whether this container's gateway or worker is well: for Docker, and for a kubelet.

health.py gateway    the gateway answers and reaches Redis (that no worker is alive is not its illness)
health.py worker     the worker's heartbeat reaches Redis
health.py alive      the same, but while Redis is away the worker is left alone: it waits, and keeps what it has solved

Runs every few seconds: it imports Redis' client alone, where the service's own modules would take a second.
"""

import http.client
import json
import os
import socket
import sys
from typing import Any

WORKERS, WORKER = "gds:workers", "gds:worker:{}"
"""As in solver_service/store/keys.py; a test compares."""


def gateway_is_well() -> bool:
    """Whether `/readyz` finds Redis."""
    port = int(os.environ.get("GDSOLVER_PORT") or 8000)
    gateway = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        gateway.request("GET", "/readyz")
        answer = gateway.getresponse()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no gateway answers at 127.0.0.1:{port}: {error!r}")
    return answer.status == 200 or "worker" in json.load(answer)["detail"]


def beats(redis: Any) -> bool:
    """Whether a worker of this container's name has a fresh heartbeat: Redis drops those that are not."""
    known = [worker.decode() for worker in redis.zrange(WORKERS, 0, -1)]
    found = redis.mget([WORKER.format(worker) for worker in known]) if known else []
    return socket.gethostname() in [json.loads(beat)["host"] for beat in found if beat]


def worker_is_well(*, without_redis: bool) -> bool:
    """Whether its heartbeat arrives; `without_redis` is the answer while Redis cannot be asked."""
    import redis  # noqa: PLC0415 (the gateway's check does without)

    if not (url := os.environ.get("GDSOLVER_REDIS_URL")):
        sys.exit("GDSOLVER_REDIS_URL is not set")
    try:
        if url.startswith("redis+sentinel:"):
            from solver_service.store.connection import connect  # noqa: PLC0415 (a second slower)

            return beats(connect(url))
        return beats(redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3, retry=None))
    except redis.RedisError:
        return without_redis


if __name__ == "__main__":
    checks = {
        "gateway": gateway_is_well,
        "worker": lambda: worker_is_well(without_redis=False),
        "alive": lambda: worker_is_well(without_redis=True),
    }
    if len(sys.argv) != 2 or sys.argv[1] not in checks:
        print(f"usage: health.py {'|'.join(checks)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(not checks[sys.argv[1]]())
