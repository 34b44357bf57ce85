"""Publishing a job id to Celery, by task name: the gateway's one touch of Celery, and the settings both ends share."""

from typing import Protocol

from celery import Celery
from kombu.exceptions import KombuError

from solver_service.errors import StoreUnavailableError
from solver_service.jobs import Job

TASK = "gdsolver.solve"
MODEL_TASK = "gdsolver.write_model"
QUEUES = tuple(f"gdsolver.{priority}" for priority in ("high", "normal", "low"))
VISIBILITY_S = 3600
MODEL_LIMIT_S = 120


class Publish(Protocol):
    """Sends a job's id to a worker: to be solved, or for another task."""

    def __call__(self, job: Job, *, task: str = TASK) -> None:
        """Raise StoreUnavailableError when the broker is away."""


def celery_app(redis_url: str) -> Celery:
    """Make the Celery application that gateway and worker share: JSON only, ids only, no result backend."""
    app = Celery("gdsolver", broker=redis_url.replace("unix://", "redis+socket://", 1))
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
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_S,
            "queue_order_strategy": "priority",
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
        },
        task_create_missing_queues=True,
        enable_utc=True,
    )
    return app


def publisher(app: Celery) -> Publish:
    """Make the function that queues a job; it raises StoreUnavailableError when the broker is away."""

    def publish(job: Job, *, task: str = TASK) -> None:
        solving = task == TASK
        try:
            app.send_task(
                task,
                args=[job.id],
                queue=f"gdsolver.{job.spec.priority}" if solving else QUEUES[0],
                time_limit=hard_limit(job) if solving else MODEL_LIMIT_S,
                # Once more at once: the connection may be one that Redis dropped when it was restarted.
                retry=True,
                retry_policy={"max_retries": 1, "interval_start": 0.0},
            )
        except (KombuError, OSError) as error:
            raise StoreUnavailableError(f"broker: {error}") from error

    return publish


def hard_limit(job: Job) -> int:
    """Seconds after which Celery kills the process, the backstop behind the solver's own limit."""
    return int(1.5 * job.spec.limits.time_s) + 120
