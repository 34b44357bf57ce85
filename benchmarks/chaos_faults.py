"""The faults of `chaos.py`: what is done to a pool on purpose, one at a time, and whom each of them hit.

SIGKILL to a solving child, SIGKILL to a whole worker, SIGSTOP of a worker for 15 s, SIGSTOP of a solving child for
good, SIGKILL to Redis, SIGSTOP of Redis for 10 s, a Redis that has no memory left for 5 s, SIGKILL or SIGTERM to the
gateway, SIGSTOP of everything for 20 s, an upload that is cut off, a record that nobody can read, and a running job's
record with fields of a release that does not exist yet.
"""

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import psutil
import redis
from own_pool import OwnPool
from service import tiny
from stand_in import NOTHING

from shared.contracts import JobSpec, JobStatus, State
from trainer.errors import TrainerError
from trainer.pool.client import SolverClient

SOLVERS_AWAY_S = 15.0
FULL_S = 5.0
WEIGHT_OF = {
    "kill child": 4,
    "kill worker": 3,
    "stop worker": 1,
    "hang child": 2,
    "kill redis": 2,
    "pause redis": 2,
    "fill redis": 1,
    "restart gateway": 2,
    "freeze everything": 1,
    "cut upload": 2,
    "spoil a record": 2,
    "unknown fields": 2,
}
FAULTS, WEIGHTS = tuple(WEIGHT_OF), tuple(WEIGHT_OF.values())
RERUN = ("kill child", "kill worker", "hang child")
"""Faults after which a job has to run again, and how soon is measured."""
BLINDING = ("kill redis", "pause redis", "freeze everything", "fill redis", "restart gateway")
"""Faults after which whoever watches over leases begins anew: nobody was seen meanwhile."""


@dataclass(frozen=True)
class Hit:
    """A worker that a fault hit, and the job that it had, if that is known, by the clock that event ids are of."""

    fault: str
    worker: str
    at: float
    job: str | None = None
    attempt: int | None = None

    def explains(self, worker: str, began: float, lost: float) -> bool:
        """Whether it accounts for the loss of this worker's attempt."""
        return self.worker == worker and began - SOLVERS_AWAY_S <= self.at <= lost


class Breaker(threading.Thread):
    """Does the faults, one at a time, and notes whom they hit; as a thread it starts again what died."""

    def __init__(
        self, pool: OwnPool, seed: int, hits: list[Hit], faults: Counter[str], *, frozen_s: float, paused_s: float
    ) -> None:
        super().__init__(name="tender", daemon=True)
        self.pool, self.hits, self.faults, self.random = pool, hits, faults, random.Random(seed)
        self.frozen_s, self.paused_s = frozen_s, paused_s
        self.client = SolverClient(pool.url, timeout=3, retries=0)
        self.redis = redis.Redis.from_url(pool.redis_url, socket_timeout=3)
        self.stopped: dict[str, float] = {}
        self.still: list[tuple[float, float]] = []
        """When Redis, or everything, stood still: nobody can be missed then."""
        self.blinded: list[float] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """Look after the pool until the end, whatever anybody waits for."""
        while not self.ended.wait(0.1):
            self.tend()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()
        self.client.close()
        self.redis.close()

    def one(self, fault: str) -> None:
        """Do one fault."""
        self.faults[fault] += 1
        if fault in BLINDING:
            self.blinded.append(time.time())
        match fault:
            case "kill child" | "kill worker" | "hang child":
                self._hit_solver(fault)
            case "stop worker":
                worker = self.random.choice(self._workers)
                self.stopped[worker] = time.monotonic() + SOLVERS_AWAY_S
                self.hits.append(Hit(fault, worker, time.time()))
                self.pool.signal(worker, signal.SIGSTOP)
            case "kill redis":
                self.pool.signal("redis", signal.SIGKILL)
            case "pause redis":
                self._pause(["redis"], self.paused_s)
            case "freeze everything":
                self._pause(list(self.pool.children), self.frozen_s)
            case "restart gateway":
                self.pool.signal("gateway", self.random.choice([signal.SIGKILL, signal.SIGTERM]))
            case "cut upload":
                self._cut_upload()
            case "fill redis":
                self._fill()
            case _:
                if not any(self._rewrite(fault) or time.sleep(0.2) for _ in range(10)):
                    self.faults[fault] -= 1  # nobody to ask just then

    def tend(self) -> None:
        """Wake who was stopped for long enough, and start again what died."""
        for worker, until_then in list(self.stopped.items()):
            if time.monotonic() > until_then:
                self.pool.signal(worker, signal.SIGCONT)
                del self.stopped[worker]
        for name in self.pool.dead():
            self.stopped.pop(name, None)
            self.pool.revive(name)

    def awake_s(self, begin: float, end: float) -> float:
        """How long the pool was awake between two moments."""
        return end - begin - sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self.still)

    def undisturbed(self, begin: float, end: float) -> bool:
        """Whether no fault of the whole pool came between two moments."""
        return not any(begin < at < end for at in self.blinded)

    def set_aside(self) -> int:
        """How many records the pool could not read."""
        return int(self.redis.hlen("gds:quarantine"))

    @property
    def _workers(self) -> list[str]:
        return [f"worker-{number}" for number in range(1, self.pool.workers + 1)]

    def _running(self) -> list[JobStatus]:
        try:
            return [job for job in self.client.jobs(state=State.RUNNING, limit=50) if job.worker not in self.stopped]
        except TrainerError:
            return []  # no gateway, no note

    def _hit_solver(self, fault: str) -> None:
        """Kill or stop a worker's child, or kill it as a whole; one that has a job, if there is one."""
        running = self._running()
        worker = self.random.choice([str(job.worker) for job in running] or self._workers)
        now = time.time()
        self.hits.append(Hit(fault, worker, now))
        self.hits += [Hit(fault, worker, now, job.id, job.attempt) for job in running if job.worker == worker]
        if fault == "kill worker":
            self.pool.signal(worker, signal.SIGKILL)
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pool.pid(worker)).children():
                child.send_signal(signal.SIGKILL if fault == "kill child" else signal.SIGSTOP)

    def _pause(self, names: list[str], seconds: float) -> None:
        for name in names:
            self.pool.signal(name, signal.SIGSTOP)
        began = time.time()
        time.sleep(seconds)
        self.still.append((began, time.time()))
        self.random.shuffle(names)
        for name in names:
            if name not in self.stopped:
                self.pool.signal(name, signal.SIGCONT)

    def _fill(self) -> None:
        try:
            self.redis.config_set("maxmemory", "1")
            time.sleep(FULL_S)
        finally:
            with contextlib.suppress(redis.RedisError):
                self.redis.config_set("maxmemory", "0")

    def _rewrite(self, fault: str) -> bool:
        """Spoil the record of a job of our own, or put fields of another release into a running one's."""
        try:
            if fault == "spoil a record":
                status = self.client.solve(tiny(NOTHING), JobSpec.model_validate({"objective": "ramp", "radius": 0.1}))
                self.redis.set(f"gds:job:{status.id}", b"{spoilt")
                return self.client.jobs(limit=1) is not None
            for job in self._running():
                if self._with_unknown_fields(f"gds:job:{job.id}"):
                    return True
        except (TrainerError, redis.RedisError):
            pass
        return False

    def _with_unknown_fields(self, name: str) -> bool:
        with self.redis.pipeline() as pipe:
            pipe.watch(name)
            found: Any = pipe.get(name)
            if found is None:
                return False
            record = json.loads(found)
            record |= {"version": 99, "unknown": {"deep": [1]}, "spec": {**record["spec"], "unknown": 1}}
            pipe.multi()
            pipe.set(name, json.dumps(record), keepttl=True)
            try:
                pipe.execute()
            except redis.WatchError:
                return False
        return True

    def _cut_upload(self) -> None:
        body = os.urandom(2_000_000)
        head = (
            "POST /v1/snapshots HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Length: {2 * len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.pool.listener.getsockname()[1]), timeout=5) as connection:
            connection.settimeout(2)
            try:
                connection.sendall(head.encode() + body)
            except OSError:
                return  # the gateway is down itself
