"""What the service is measured against: the least that FastAPI, Celery and uvicorn can be asked to do.

python benchmarks/minimal.py least FD | sink FD | worker
"""

import argparse
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from celery import Celery
from fastapi import FastAPI

QUEUE = "minimal"


def celery_app() -> Celery:
    """A Celery with results in the same Redis, set like the service's own."""
    url = os.environ["GDSOLVER_REDIS_URL"].replace("unix://", "redis+socket://", 1)
    app = Celery("minimal", broker=url, backend=url)
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, task_default_queue=QUEUE)
    app.conf.update(worker_enable_remote_control=False, worker_send_task_events=False)

    @app.task(name="nothing")
    def nothing(name: str) -> str:
        return name

    return app


def endpoint() -> FastAPI:
    """Publishes a task per request; `/run` waits for its result, too."""
    app, tasks = FastAPI(), celery_app()

    @app.post("/jobs", status_code=202)
    def create(spec: dict[str, Any]) -> dict[str, str]:
        return {"id": tasks.send_task("nothing", args=["x"]).id}

    @app.post("/run")
    def run(spec: dict[str, Any]) -> dict[str, str]:
        return {"result": tasks.send_task("nothing", args=["x"]).get(timeout=30)}

    return app


async def sink(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Read a body to its end, and say so."""
    if scope["type"] != "http":
        return
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    assert b"".join(parts) or scope["method"] == "GET"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def main() -> None:
    """Serve one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("least", "sink", "worker"))
    parser.add_argument("fd", type=int, nargs="?", help="of the listening socket")
    given = parser.parse_args()
    if given.part == "worker":
        celery_app().worker_main(
            ["--quiet", "worker", "--concurrency=1", "--loglevel=WARNING", "--without-gossip", "--without-mingle",
             "--without-heartbeat", "-n", "minimal@%h"]
        )  # fmt: skip
        return
    if given.fd is None:
        parser.error(f"{given.part} needs the number of a listening socket")
    config = uvicorn.Config(endpoint() if given.part == "least" else sink, log_level="warning", lifespan="off")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=given.fd)])


if __name__ == "__main__":
    main()
