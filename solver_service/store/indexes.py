"""A job's place in every index, queued into the same transaction as its record."""

from redis.client import Pipeline

from shared.contracts import State
from solver_service.queue import TURNS_QUEUE, Messages
from solver_service.rules.jobs import Job, id_at, patience_ends
from solver_service.store import keys, turns
from solver_service.store.reading import RECENT

LONGEST_LIFE_S = 8 * 86400
"""A job may wait for seven days (`ttl_s`), and be solved for a while."""


def place(pipe: Pipeline, job: Job, *, before: Job | None, messages: Messages, lease_ends: float) -> None:
    """Move a job from where it was to where it is now."""
    if before is not None and before.state is job.state:
        return
    if before is not None:
        _take_out(pipe, before, ended=job.state.terminal)
    if job.state is State.QUEUED:
        _queue(pipe, job, messages)
    elif job.state is State.RUNNING:
        pipe.zadd(keys.RUNNING, {job.id: lease_ends})
        pipe.hset(keys.HOLDING, job.id, job.attempt)
    else:
        _end(pipe, job, before)
    if before is None or job.state.terminal:
        note = pipe.srem if job.state.terminal else pipe.sadd
        note(keys.unfinished(job.owner), job.id)
        if job.spec.run is not None:
            note(keys.active(job.owner, job.spec.run), job.id)


def enlist(pipe: Pipeline, job: Job, *, keep_record_s: int, now: float) -> None:
    """Note a job in its owner's lists, which hold no ids older than a record can be, and end with the last of them."""
    life_s = keep_record_s + LONGEST_LIFE_S
    for run in {None, job.spec.run}:
        name = keys.jobs(job.owner, run)
        pipe.zadd(name, {job.id: 0})
        pipe.zremrangebylex(name, "-", f"({id_at(now - life_s)}")
        pipe.expire(name, life_s)


def wake(pipe: Pipeline, job: Job, messages: Messages) -> None:
    """Send the message that gives a worker a turn."""
    message = messages.to_solve(job)
    pipe.lpush(message.queue, message.text)


def _queue(pipe: Pipeline, job: Job, messages: Messages) -> None:
    turns.wait(pipe, job)
    wake(pipe, job, messages)
    pipe.zadd(keys.QUEUED, {job.id: job.queued_at})
    pipe.zadd(keys.waiting(job.spec.priority), {job.id: job.queued_at})
    if (ends := patience_ends(job)) is not None:
        pipe.zadd(keys.EXPIRING, {job.id: ends})


def _take_out(pipe: Pipeline, before: Job, *, ended: bool) -> None:
    if before.state is State.RUNNING:
        pipe.zrem(keys.RUNNING, before.id)
        pipe.hdel(keys.HOLDING, before.id)
    elif before.state is State.QUEUED:
        turns.leave(pipe, before.owner, before.id)
        for index in (keys.QUEUED, keys.waiting(before.spec.priority), keys.EXPIRING):
            pipe.zrem(index, before.id)
        if ended:
            pipe.lpop(TURNS_QUEUE)  # one wake-up less is needed, whichever it is


def _end(pipe: Pipeline, job: Job, before: Job | None) -> None:
    if job.result is not None and before is not None:
        worker_id = (before.claim or "").partition(":")[0] or before.worker
        if worker_id is not None:
            pipe.incr(keys.solved(worker_id))
    pipe.hincrby(keys.FINISHED, job.state.value, 1)
    pipe.delete(keys.incumbent(job.id))
    pipe.lpush(keys.RECENT, job.id)
    pipe.ltrim(keys.RECENT, 0, RECENT - 1)
