"""Jobs' models as MPS files that somebody asked for, kept for a while."""

import time
from dataclasses import dataclass

import redis

from shared.contracts import JobError
from shared.errors import ErrorCode
from solver_service.queue import Messages
from solver_service.rules.jobs import Job
from solver_service.store import keys
from solver_service.store.connection import payload, translated
from solver_service.store.limits import LimitReachedError
from solver_service.store.pieces import hand_over, whole
from solver_service.store.quota import Quota, count

KEEP_S = 3600
ASK_AGAIN_S = 60
"""A request that nobody has answered for so long is sent again, if somebody still waits."""
MOST_AT_ONCE = 4
"""So many models of one key are written or wait to be."""
MOST_REQUESTS = 3
"""A model whose writing was asked for so often in vain is given up."""


@dataclass(frozen=True)
class ModelStore:
    """All written models of one Redis."""

    redis: redis.Redis
    messages: Messages
    quota: Quota

    @translated
    def get(self, job_id: str) -> bytes | None:
        """Read a model; None when it was not written, or too long ago."""
        return whole(self.redis, keys.model(job_id))

    @translated
    def put(self, job: Job, data: bytes) -> None:
        """Keep a model for an hour; LimitReachedError when it does not fit what its owner may keep."""
        name = keys.model(job.id)
        self.quota.require_room(job.owner, len(data))
        arrived = hand_over(self.redis, data)
        with self.redis.pipeline() as pipe:
            pipe.rename(arrived, name)
            pipe.expire(name, KEEP_S)
            count(pipe, name, owner=job.owner, size=len(data), ends=self.quota.in_seconds(KEEP_S))
            pipe.execute()
        self.redis.zrem(keys.models_wanted(job.owner), job.id)

    @translated
    def refusal(self, job_id: str) -> JobError | None:
        """Why there is no model, if that is known."""
        found = payload(self.redis.get(keys.model_refusal(job_id)))
        return None if found is None else JobError.model_validate_json(found)

    @translated
    def refuse(self, job: Job, reason: JobError) -> None:
        """Say why there is no model."""
        self.redis.set(keys.model_refusal(job.id), reason.model_dump_json(), ex=KEEP_S)
        self.redis.zrem(keys.models_wanted(job.owner), job.id)

    @translated
    def ask(self, job: Job) -> None:
        """Have a worker write the job's model, unless one was asked lately; refuse it after too many times.

        LimitReachedError while as many of the owner's models are being written as may be.
        """
        wanted, mine, now = keys.model_wanted(job.id), keys.models_wanted(job.owner), time.time()
        with self.redis.pipeline() as pipe:
            pipe.zremrangebyscore(mine, "-inf", now - ASK_AGAIN_S)
            pipe.zrem(mine, job.id)
            pipe.zcard(mine)
            pipe.zadd(mine, {job.id: now})
            pipe.expire(mine, KEEP_S)
            others = int(pipe.execute()[2])
        if others >= MOST_AT_ONCE:
            self.redis.zrem(mine, job.id)
            detail = f"{others} models of this key are being written; try again later"
            raise LimitReachedError(detail, code=ErrorCode.RATE_LIMITED, retry_after_s=5)
        if not self.redis.set(f"{wanted}:now", b"1", nx=True, ex=ASK_AGAIN_S):
            return
        with self.redis.pipeline() as pipe:
            pipe.incr(wanted)
            pipe.expire(wanted, KEEP_S)
            asked = int(pipe.execute()[0])
        if asked > MOST_REQUESTS:
            self.refuse(job, JobError(code=ErrorCode.SOLVER_ERROR, detail="no worker could write this model"))
        else:
            message = self.messages.to_write_model(job)
            self.redis.lpush(message.queue, message.text)
