"""The name of every key in Redis, in one place."""

API_KEYS = "gds:apikeys"
"""Hash: API keys (JSON) by id; of a token only its SHA-256 is kept."""
API_KEYS_IN_USE = "gds:apikeys-in-use"
"""Present since the first API key was stored."""
API_KEYS_REVOKED = "gds:apikeys-revoked"
"""Hash: API keys that were revoked (JSON) by id, so that what they made can be found by name until it is purged."""
BLOB_ENDS = "gds:blob-ends"
"""Sorted set: names of snapshots, results and logs by the time they expire."""
BLOB_SIZES = "gds:blob-sizes"
"""Hash: size and owner of each of them."""
BYTES = "gds:bytes"
"""Hash: bytes of snapshots, results, logs and records by owner, and `*` for all."""
COUNTERS = "gds:counters"
"""Hash: what the pool has counted since the store began, by the names of `solver_service.rules.metrics`."""
MODE = "gds:mode"
"""How the pool is run, if not as usual: `paused` or `draining`."""
RECENT = "gds:recent"
"""List: ids of the jobs that ended last, newest first."""
QUEUED = "gds:queued"
"""Sorted set: queued job ids by the time their message was last sent."""
RUNNING = "gds:running"
"""Sorted set: running job ids by the time their lease ends; who reaps looks only whether it changes."""
FINISHED = "gds:finished"
"""Hash: how many jobs ended in each terminal state."""
WORKERS = "gds:workers"
"""Sorted set: ids of workers that had a heartbeat."""
EXPIRING = "gds:expiring"
"""Sorted set: ids of queued jobs that will not wait for ever, by the time when their patience ends."""
CHANGED = "gds:changed"
"""Channel: the id of every job as it changes, and the record of one that has ended."""
HANDED_ON = "gds:handed-on"
"""Sorted set: queued jobs that have begun (id, then owner) by the time they came back; they go first."""
HOLDING = "gds:holding"
"""Hash: the attempt that holds each running job, so that no other one renews its lease or stores its incumbent."""
NOTHING = "gds:nothing"
"""Never there: for writes that need no value to be as it was."""
PASS = "gds:pass"
"""The pass of the key that had its turn last."""
PASSES = "gds:passes"
"""Sorted set: owners by their pass, see `solver_service.store.turns`."""
QUARANTINE = "gds:quarantine"
"""Hash: records that could not be read, by job id."""
WEIGHTS = "gds:weights"
"""Hash: weights of owners that have more or fewer turns than others."""
REAPER = "gds:reaper"
"""The token of the gateway that may reap just now."""


def job(job_id: str) -> str:
    """A job's record (JSON)."""
    return f"gds:job:{job_id}"


def jobs(owner: str, run: str | None = None) -> str:
    """Sorted set of an owner's job ids (all scores 0, ids sort by time), of one run or of all."""
    return f"gds:jobs:{owner}" if run is None else f"gds:jobs:{owner}:{run}"


def active(owner: str, run: str) -> str:
    """Set of a run's unfinished job ids."""
    return f"gds:active:{owner}:{run}"


def waiting(priority: str) -> str:
    """Sorted set: queued job ids of one priority by the time they were queued."""
    return f"gds:waiting:{priority}"


def turns(owner: str) -> str:
    """Sorted set: an owner's queued job ids that have not begun, by priority and time."""
    return f"gds:turns:{owner}"


def unfinished(owner: str) -> str:
    """Set of an owner's unfinished job ids."""
    return f"gds:unfinished:{owner}"


def rate(owner: str) -> str:
    """An owner's bucket of submissions (hash: tokens, at)."""
    return f"gds:rate:{owner}"


def idempotency(owner: str, key: str) -> str:
    """What an idempotency key stands for (JSON: digest, and a job or batch)."""
    return f"gds:idempotency:{owner}:{key}"


def batch(owner: str, batch_id: str) -> str:
    """A batch's record (JSON); it belongs to the key that sent it."""
    return f"gds:batch:{owner}:{batch_id}"


def snapshot(owner: str, snapshot_id: str) -> str:
    """A snapshot's bytes; they belong to the key that sent them."""
    return f"gds:snapshot:{owner}:{snapshot_id}"


def arriving(token: str) -> str:
    """A large value's bytes while they are being handed over."""
    return f"gds:arriving:{token}"


def incumbent(job_id: str) -> str:
    """The best weights of an unfinished job (safetensors)."""
    return f"gds:incumbent:{job_id}"


def events(job_id: str) -> str:
    """Stream of what happened to a job (fields: kind, data as JSON)."""
    return f"gds:events:{job_id}"


def log(job_id: str) -> str:
    """What a job's attempts have written of what they do (text)."""
    return f"gds:log:{job_id}"


def log_places(job_id: str) -> str:
    """Where a log's text is (hash: `total` bytes ever written; once it was cut, bytes of its `head`, first byte `left`
    of its tail).
    """
    return f"gds:log-places:{job_id}"


def result(job_id: str) -> str:
    """A finished job's weights (safetensors)."""
    return f"gds:result:{job_id}"


def model(job_id: str) -> str:
    """A job's model (MPS) that somebody asked for."""
    return f"gds:model:{job_id}"


def model_refusal(job_id: str) -> str:
    """Why a job's model cannot be had (JSON)."""
    return f"gds:model-refusal:{job_id}"


def model_wanted(job_id: str) -> str:
    """How often a worker was asked for a job's model."""
    return f"gds:model-wanted:{job_id}"


def models_wanted(owner: str) -> str:
    """Sorted set: ids of an owner's jobs whose models a worker was asked for, by time."""
    return f"gds:models-wanted:{owner}"


def worker(worker_id: str) -> str:
    """A worker's heartbeat (JSON)."""
    return f"gds:worker:{worker_id}"


def solved(worker_id: str) -> str:
    """How many jobs a worker has finished."""
    return f"gds:solved:{worker_id}"
