"""Jobs' models as MPS files that somebody asked for, kept for a while."""

from dataclasses import dataclass

import redis

from shared.contracts import JobError
from shared.errors import ErrorCode
from solver_service.queue import Messages
from solver_service.rules.jobs import Job
from solver_service.store import keys
from solver_service.store.connection import payload, translated

KEEP_S = 3600
ASK_AGAIN_S = 60
"""A request that nobody has answered for so long is sent again, if somebody still waits."""
MOST_REQUESTS = 3
"""A model whose writing was asked for so often in vain is given up."""


@dataclass(frozen=True)
class ModelStore:
    """All written models of one Redis."""

    redis: redis.Redis
    messages: Messages

    @translated
    def get(self, job_id: str) -> bytes | None:
        """Read a model; None when it was not written, or too long ago."""
        return payload(self.redis.get(keys.model(job_id)))

    @translated
    def put(self, job_id: str, data: bytes) -> None:
        """Keep a model for an hour."""
        self.redis.set(keys.model(job_id), data, ex=KEEP_S)

    @translated
    def refusal(self, job_id: str) -> JobError | None:
        """Why there is no model, if that is known."""
        found = payload(self.redis.get(keys.model_refusal(job_id)))
        return None if found is None else JobError.model_validate_json(found)

    @translated
    def refuse(self, job_id: str, reason: JobError) -> None:
        """Say why there is no model."""
        self.redis.set(keys.model_refusal(job_id), reason.model_dump_json(), ex=KEEP_S)

    @translated
    def ask(self, job: Job) -> None:
        """Have a worker write the job's model, unless one was asked lately; refuse it after too many times."""
        wanted = keys.model_wanted(job.id)
        if not self.redis.set(f"{wanted}:now", b"1", nx=True, ex=ASK_AGAIN_S):
            return
        with self.redis.pipeline() as pipe:
            pipe.incr(wanted)
            pipe.expire(wanted, KEEP_S)
            asked = int(pipe.execute()[0])
        if asked > MOST_REQUESTS:
            self.refuse(job.id, JobError(code=ErrorCode.SOLVER_ERROR, detail="no worker could write this model"))
        else:
            message = self.messages.to_write_model(job)
            self.redis.lpush(message.queue, message.text)
