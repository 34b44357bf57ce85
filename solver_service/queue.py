"""Celery as the service uses it: the settings that both ends share, and messages that the store sends itself.

A message is written together with the record that it speaks of, so that neither is ever there without the other.
"""

import ssl
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote

from celery import Celery
from celery.utils import uuid
from kombu import Connection, Producer
from kombu.transport import virtual
from kombu.utils.json import dumps

from solver_service.rules.jobs import Job
from solver_service.sentinel import sentinels

TASK = "gdsolver.solve"
MODEL_TASK = "gdsolver.write_model"
TURNS_QUEUE = "gdsolver.normal"
"""Where workers wait for a turn. It says nothing of priorities: the store knows whose turn it is."""
QUEUES = tuple(f"gdsolver.{priority}" for priority in ("high", "normal", "low"))
MODEL_LIMIT_S = 120
HARD_LIMIT_S = 6 * 3600
"""Celery's own backstop: a message is a turn, whose job is not known yet. Long before, a worker misses its pulse."""
VERIFICATION = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def celery_app(redis_url: str, *, current: bool = True) -> Celery:
    """Make a Celery application with the settings that both ends share: JSON only, ids only, no result backend.

    One that is not `current` serves its maker alone: it leaves the process's own application what it is.
    """
    broker, tls = broker_of(redis_url)
    known = sentinels(redis_url)
    app = Celery("gdsolver", broker=broker, set_as_current=current)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        # A lost worker's job comes back through its lease; redelivery by the broker would run poison for ever.
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=200,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_use_ssl=tls,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            # What a dead worker had taken comes back by its job's lease, or by the reaper, which wakes somebody else;
            # Celery's own list of it would cost two round trips, and cannot be written in a full Redis.
            "ack_emulation": False,
            "queue_order_strategy": "priority",
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            **({} if known is None else {"master_name": known.name, "sentinel_kwargs": {"password": known.password}}),
        },
        task_create_missing_queues=True,
        enable_utc=True,
    )
    return app


def broker_of(redis_url: str) -> tuple[str, dict[str, Any] | None]:
    """Celery's name of a Redis, and how TLS is checked: as redis-py does it, where kombu would believe anybody.

    `ssl_ca_certs`, `ssl_cert_reqs` and the like in the URL's query count for both.
    """
    if (known := sentinels(redis_url)) is not None:
        secret = "" if known.password is None else f":{quote(known.password, safe='')}@"
        return ";".join(f"sentinel://{secret}{host}:{port}/{known.db}" for host, port in known.hosts), None
    url = redis_url.replace("unix://", "redis+socket://", 1)
    if not url.startswith("rediss://"):
        return url, None
    address, _, query = url.partition("?")
    asked: dict[str, Any] = {name: value for name, value in parse_qsl(query) if name.startswith("ssl_")}
    asked["ssl_cert_reqs"] = VERIFICATION[asked.get("ssl_cert_reqs", "required").lower()]
    named = asked.get("ssl_check_hostname", "true").lower() in ("true", "1", "yes")
    asked["ssl_check_hostname"] = named and asked["ssl_cert_reqs"] is ssl.CERT_REQUIRED
    return address, asked


class Message(NamedTuple):
    """What a worker receives: the Redis list it waits at, and the text to push there."""

    queue: str
    text: str


class _Channel(virtual.Channel):
    """A channel of kombu's that sends nothing: it hands the message back as its Redis channel would push it."""

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> Message:  # type: ignore[override]
        return Message(queue, dumps(message))


class _Transport(virtual.Transport):
    Channel = _Channel


class Messages:
    """Makes the messages that send a job's id to a worker."""

    def __init__(self) -> None:
        self._amqp = celery_app("memory://", current=False).amqp
        self._producer = Producer(Connection(transport=_Transport).channel(), auto_declare=False)

    def to_solve(self, job: Job) -> Message:
        """Give somebody a turn: the job's own, unless it is another one's turn by then."""
        return self._packed(TASK, job, TURNS_QUEUE, limit_s=HARD_LIMIT_S)

    def to_write_model(self, job: Job) -> Message:
        """Ask for the job's model to be written; behind all jobs, as anybody may ask."""
        return self._packed(MODEL_TASK, job, QUEUES[2], limit_s=MODEL_LIMIT_S)

    def _packed(self, task: str, job: Job, queue: str, *, limit_s: int) -> Message:
        task_message = self._amqp.create_task_message(
            uuid(), task, [job.id], {}, time_limit=limit_s, ignore_result=True
        )
        packed: Message = self._amqp.send_task_message(
            self._producer, task, task_message, queue=queue, declare=[], retry=False
        )
        return packed


def hard_limit(job: Job) -> int:
    """Seconds after which an attempt has no pulse any more, the backstop behind the solver's own limit."""
    return int(1.5 * job.spec.limits.time_s) + 120
