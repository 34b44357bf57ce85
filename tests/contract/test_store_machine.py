"""A pool in a box: the real store and reaper, with workers, clocks, lost answers, pauses and restarts drawn by chance.

Time is simulated, Redis is real. Whatever happens, no job is lost, none ends twice, every index says what the records
say, and no attempt is charged to a worker that was healthy. GDSOLVER_MACHINE_RUNS sets how many pools are drawn:

    GDSOLVER_MACHINE_RUNS=2000 python -m pytest tests/contract/test_store_machine.py --timeout 7200
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, TypeVar, cast

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.contracts import JobError, JobSpec, State
from solver_service.errors import StoreUnavailableError
from solver_service.queue import QUEUES
from solver_service.reaper import Reaper, give_up
from solver_service.rules import batches, jobs
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.store.clock import Clock
from solver_service.store.events import BEGINNING
from tests.unit.service.test_jobs import PROGRESS, RESULT

T = TypeVar("T")

RUNS = int(os.environ.get("GDSOLVER_MACHINE_RUNS", "25"))
LEASE_S = 10.0
WATCH_S = 0.5
OWNERS = ("a", "b", "c")
LOST = st.sampled_from([3, 2, 1, 0])
"""Which of a rule's answers is lost: the first, second or third one, or none."""
SPEC = JobSpec.model_validate({"objective": "ramp", "radius": 0.1, "ttl_s": 7 * 86400})


class World:
    """Time as it passes, and as Redis' clock shows it; which of the next answers is lost (0: none)."""

    def __init__(self) -> None:
        self.elapsed = 1000.0
        self.wall = 1_700_000_000.0
        self.lose = 0

    def monotonic(self) -> float:
        return self.elapsed

    def time(self) -> tuple[int, int]:
        now = self.wall + self.elapsed
        return int(now), int(now % 1 * 1e6)


class LosingRedis(redis.Redis):
    """A client whose answers may be lost on the way: what was asked for has been done all the same."""

    world: World

    def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = super().execute_command(*args, **options)
        if self.world.lose > 0:
            self.world.lose -= 1
            if self.world.lose > 0:
                return answer
            raise redis.ConnectionError("the answer was lost")
        return answer


def open_store(url: str, world: World) -> Store:
    """A process's own store on the simulated clock."""
    store = Store.open(Settings(redis_url=url, lease_s=LEASE_S))
    client = LosingRedis(connection_pool=store.redis.connection_pool)
    client.world = world
    clock = Clock(cast(redis.Redis, world), monotonic=world.monotonic)
    commit = replace(store.jobs.commit, redis=client)
    job_store = replace(store.jobs, redis=client, clock=clock, commit=commit)
    return replace(
        store,
        redis=client,
        jobs=job_store,
        batches=replace(store.batches, redis=client, jobs=job_store),
        logs=replace(store.logs, redis=client),
        turns=replace(store.turns, redis=client),
        blobs=replace(store.blobs, redis=client),
        reaper=replace(store.reaper, clock=world.monotonic),
    )


def patiently(call: Callable[[], T]) -> T:
    """As workers do: ask again until there is an answer."""
    while True:
        try:
            return call()
        except StoreUnavailableError:
            continue


@dataclass
class Worker:
    """A worker with one job at a time, if any; `frozen` and dead ones do nothing."""

    store: Store
    raw: redis.Redis
    name: str
    job: jobs.Job | None = None
    frozen: bool = False

    def take(self, turn: int) -> None:
        """Take a turn, as `solver_service.worker.tasks` does."""
        message = self.raw.rpop(QUEUES[1])
        if message is None:
            return
        while (picked := patiently(self.store.turns.pick)) is not None:
            now = patiently(self.store.jobs.now)
            claim = partial(jobs.claim, worker=self.name, token=f"{self.name}:1:{turn}", now=now)
            found = patiently(partial(self.store.jobs.update, picked, claim))
            if found is not None and found.state is State.RUNNING:
                self.job = found
                return

    def watch(self) -> None:
        """Renew the lease; drop a job that is another attempt's."""
        if self.job is not None and not patiently(partial(self.store.jobs.renew, self.job.id, self.job.attempt)):
            self.job = None

    def change(self, transition: Callable[..., jobs.Job | None], **options: Any) -> jobs.Job | None:
        """Make a change that only the holder may, again if the answer was lost."""
        job = self.job
        assert job is not None
        make = partial(transition, attempt=job.attempt, **options)
        return patiently(partial(self.store.jobs.update, job.id, make))


class Pool(RuleBasedStateMachine):
    """The whole of it."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.sure = Store.open(Settings(redis_url=self.url, lease_s=LEASE_S))  # its answers are never lost
        self.raw = self.sure.redis
        self.raw.flushall()
        self.store = open_store(self.url, self.world)
        self.numbers = count()
        self.accepted: set[str] = set()
        self.charged: Counter[str] = Counter()
        """Losses that a fault of the worker accounts for, by job."""
        self.gone: list[Worker] = []
        self.workers: list[Worker] = []
        self.reaper = self.new_reaper()

    def new_reaper(self) -> Reaper:
        store = open_store(self.url, self.world)
        return Reaper(store, republish_s=10, lease_s=LEASE_S, clock=self.world.monotonic)

    def new_worker(self) -> Worker:
        worker = Worker(open_store(self.url, self.world), self.raw, f"w{next(self.numbers)}")
        self.sure.workers.beat(worker.name, host="h", pid=1, slots=1)
        return worker

    @initialize(workers=st.integers(1, 3))
    def start(self, workers: int) -> None:
        self.workers = [self.new_worker() for _ in range(workers)]
        for number in range(2 * workers):
            self.submit(OWNERS[number % 3], "normal", lost=number % 4)
            self.take(number, lost=(number + 1) % 4)

    def busy(self) -> bool:
        return any(worker.job is not None and not worker.frozen for worker in self.workers)

    def idle(self) -> bool:
        free = any(worker.job is None and not worker.frozen for worker in self.workers)
        return free and self.raw.llen(QUEUES[1]) > 0

    def chosen(self, number: int, *, busy: bool = True) -> Worker | None:
        found = [worker for worker in self.workers if not worker.frozen and (worker.job is not None) is busy]
        return found[number % len(found)] if found else None

    # --- what users and workers do ---

    @rule(owner=st.sampled_from(OWNERS), priority=st.sampled_from(["high", "normal", "low"]), lost=LOST)
    def submit(self, owner: str, priority: str, lost: int) -> None:
        spec = SPEC.model_copy(update={"priority": priority, "run": "r" if lost > 2 else None})
        job = jobs.create(spec, snapshot="a" * 64, owner=owner, now=self.store.jobs.now())
        # No chance but hypothesis' own: ids decide between jobs of the same millisecond.
        job = job.model_copy(update={"id": f"{job.id[:12]}{next(self.numbers):020x}"})
        once = (job.id, "digest")
        self.world.lose = lost
        made, _ = patiently(lambda: self.store.jobs.add(job, idempotency=once))
        assert made.id == job.id
        self.world.lose = 0
        self.accepted.add(job.id)

    @rule(owner=st.sampled_from(OWNERS), count=st.integers(1, 3), lost=LOST)
    def submit_a_batch(self, owner: str, count: int, lost: int) -> None:
        """All of it is there, once, whichever answer was lost."""
        specs, now = [SPEC] * count, self.store.jobs.now()
        batch, made = batches.create(specs, snapshot="a" * 64, owner=owner, now=now)
        ids = tuple(f"{job.id[:12]}{next(self.numbers):020x}" for job in made)
        made = [job.model_copy(update={"id": job_id}) for job, job_id in zip(made, ids, strict=True)]
        batch = batch.model_copy(update={"id": f"batch_{ids[0]}", "jobs": ids})
        self.world.lose = lost
        found = patiently(lambda: self.store.batches.add(batch, made, idempotency=(batch.id, "digest")))
        self.world.lose = 0
        assert found == batch
        self.accepted.update(ids)

    @precondition(idle)
    @rule(number=st.integers(0, 9), lost=LOST)
    def take(self, number: int, lost: int) -> None:
        worker = self.chosen(number, busy=False)
        if worker is not None:
            self.world.lose = lost
            worker.take(next(self.numbers))
            self.world.lose = 0

    @precondition(busy)
    @rule(number=st.integers(0, 9), lost=LOST, how=st.sampled_from(["finish", "fail", "overflow", "release"]))
    def end(self, number: int, lost: int, how: str) -> None:
        worker = self.chosen(number)
        if worker is None:
            return
        self.world.lose, now = lost, worker.store.jobs.now()
        if how == "fail":
            worker.change(jobs.fail, error=JobError(code="solver_error", detail="it broke"), now=now)
        elif how != "release" or worker.change(jobs.release, now=now) is None:  # one being cancelled is not handed on
            final = float("inf") if how == "overflow" else 1.0
            objective = RESULT.objective.model_copy(update={"final": final})
            worker.change(jobs.finish, result=RESULT.model_copy(update={"objective": objective}), now=now)
        self.world.lose, worker.job = 0, None

    @precondition(busy)
    @rule(number=st.integers(0, 9), lost=LOST, value=st.sampled_from([1.0, float("nan"), 1e308]))
    def report(self, number: int, lost: int, value: float) -> None:
        worker = self.chosen(number)
        if worker is not None and worker.job is not None:
            self.world.lose, held = lost, worker.job
            if patiently(lambda: worker.store.blobs.put_incumbent(held.id, held.attempt, b"weights")):
                worker.change(jobs.report, progress=PROGRESS.model_copy(update={"objective": value}))
            self.world.lose = 0

    @precondition(busy)
    @rule(number=st.integers(0, 9), lost=LOST)
    def say(self, number: int, lost: int) -> None:
        """The log takes the words of whoever holds the job; those whose answer was lost may be there."""
        worker = self.chosen(number)
        if worker is not None and worker.job is not None:
            self.world.lose = lost
            with contextlib.suppress(StoreUnavailableError):
                worker.store.logs.append(worker.job, f"attempt {worker.job.attempt}\n")
            self.world.lose = 0

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), lost=LOST)
    def cancel(self, data: st.DataObject, lost: int) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.accepted)))
        self.world.lose = lost
        patiently(lambda: self.store.jobs.update(job_id, partial(jobs.cancel, now=self.store.jobs.now())))
        self.world.lose = 0

    # --- what befalls them ---

    @rule(number=st.integers(0, 9), noticed=st.booleans())
    def kill(self, number: int, noticed: bool) -> None:
        worker = self.workers[number % len(self.workers)]
        self.workers.remove(worker)
        if worker.job is not None:
            self.charged[worker.job.id] += 1
            if noticed:  # by its parent, which gives the job back at once
                held = self.sure.jobs.get(worker.job.id)
                if held is not None and held.worker == worker.name:
                    give_up(self.store, held)
        self.workers.append(self.new_worker())

    @rule(number=st.integers(0, 9))
    def die_with_a_turn(self, number: int) -> None:
        """A worker that dies after it took a message, and maybe picked a job, but before it claimed one."""
        if self.raw.rpop(QUEUES[1]) is not None and number % 2:
            self.store.turns.pick()

    @rule(number=st.integers(0, 9))
    def freeze_a_worker(self, number: int) -> None:
        worker = self.workers[number % len(self.workers)]
        worker.frozen = True
        if worker.job is not None:
            self.charged[worker.job.id] += 1

    @rule()
    def thaw(self) -> None:
        for worker in self.workers:
            worker.frozen = False
            worker.watch()

    @precondition(busy)
    @rule(seconds=st.sampled_from([20.0, 10.6, 9.9, 5.0, 3600.0]), first=st.booleans())
    def freeze_everything(self, seconds: float, first: bool) -> None:
        """A paused machine or a paused Redis: nobody does anything; whoever judges may wake first."""
        if first:
            self.reaper_round()
        self.world.elapsed += seconds
        if first:
            self.reaper_round()

    @rule(seconds=st.sampled_from([-3600.0, -30.0, 30.0, 3600.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.world.wall += seconds

    @rule()
    def restart_the_gateway(self) -> None:
        self.reaper = self.new_reaper()

    @rule(steps=st.sampled_from([25, 5, 1, 60]), lost=LOST)
    def go_on(self, steps: int, lost: int) -> None:
        """Some seconds in which everybody who is awake does what it has to."""
        self.world.lose = lost
        for step in range(steps):
            self.world.elapsed += WATCH_S
            for worker in self.workers:
                if not worker.frozen:
                    worker.watch()
            if step % 2:
                for worker in self.workers:
                    self.sure.workers.beat(worker.name, host="h", pid=1, slots=1)
                self.reaper_round()
        self.world.lose = 0

    def reaper_round(self) -> None:
        try:
            self.reaper.round()
        except StoreUnavailableError:
            self.reaper.forget()

    # --- what has to hold ---

    @invariant()
    def every_record_is_where_its_state_says(self) -> None:
        raw = self.raw
        found = [self.sure.jobs.get(job_id) for job_id in sorted(self.accepted)]
        known = [job for job in found if job is not None]
        assert len(known) == len(self.accepted), "a job is lost"
        by_state = {state: {job.id for job in known if job.state is state} for state in State}
        queued, running = by_state[State.QUEUED], by_state[State.RUNNING]
        assert {name.decode() for name in raw.zrange(keys.QUEUED, 0, -1)} == queued
        assert {name.decode() for name in raw.zrange(keys.RUNNING, 0, -1)} == running
        assert {name.decode() for name in raw.hkeys(keys.HOLDING)} == running
        unfinished = {name.decode() for owner in OWNERS for name in raw.smembers(keys.unfinished(owner))}
        assert unfinished == queued | running
        waiting = {
            name.decode() for rank in ("high", "normal", "low") for name in raw.zrange(keys.waiting(rank), 0, -1)
        }
        assert waiting == queued

    @invariant()
    def no_attempt_is_charged_to_a_healthy_worker(self) -> None:
        for job_id in self.accepted:
            job = self.sure.jobs.get(job_id)
            assert job is not None
            assert job.lost <= self.charged[job_id], f"{job.lost} losses of {job_id}, {self.charged[job_id]} faults"

    @invariant()
    def logs_are_counted_as_they_are(self) -> None:
        for job_id in self.accepted:
            size = self.raw.strlen(keys.log(job_id))
            counted = self.raw.hget(keys.BLOB_SIZES, keys.log(job_id)) or b"0 "
            assert int(counted.split()[0]) == size

    def teardown(self) -> None:
        """Let it run on without faults: every job ends, once, and nothing is left over."""
        self.thaw()
        for _ in range(60):
            self.go_on(steps=50, lost=0)
            for number in range(4 * len(self.workers)):
                self.take(number, lost=0)
                self.end(number, lost=0, how="finish")
            if not self.sure.jobs.sent() and not self.sure.jobs.leases():
                break
        ends: Counter[str] = Counter()
        for job_id in self.accepted:
            job = self.sure.jobs.get(job_id)
            assert job is not None
            assert job.state.terminal, f"{job_id} is {job.state}"
            told = [event.data["state"] for event in self.sure.events.after(job_id, BEGINNING) if event.kind == "state"]
            assert sum(State(state).terminal for state in told) == 1, told
            ends[job.state.value] += 1
        counts = self.sure.jobs.counts()
        assert {state: counts[state] for state in ends} == ends
        counters = self.sure.jobs.counters()
        assert sum(counters.get(f"finished|{state}", 0) for state in counts) == len(self.accepted)
        for owner in OWNERS:
            assert self.raw.zcard(keys.turns(owner)) == 0
        self.every_record_is_where_its_state_says()
        for worker in self.workers:
            worker.store.close()
        self.sure.close()


@pytest.mark.timeout(max(180, 2 * RUNS))
def test_no_job_is_lost_told_twice_or_charged_to_a_healthy_worker(redis_url: str) -> None:
    """Pools drawn by chance, each with up to 40 events, and a quiet end."""
    machine = type("Pool", (Pool,), {"url": redis_url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
