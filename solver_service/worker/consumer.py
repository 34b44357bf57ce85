"""Celery's consumer, which takes messages from Redis, made to go on where Celery's own would end for good."""

import time
import warnings
from typing import Any

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer

log = structlog.get_logger()

PAUSE_S = 1.0
"""Between an error and the next try: a failover, or a disk that is full, takes its time."""
NEXT_S = 0.25
"""Between a message that is none and the next one: Celery complains of more than five beginnings a second."""
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What kombu raises at a message that is none; by then it has been taken from its queue."""


class PatientConsumer(Consumer):
    """Begins again after whatever Redis answers, and after what something else has put into the queue.

    Celery begins again when the connection is lost. With `broker_channel_error_retry` it does so as well after an error
    that Redis answers: as a replica, for a full disk, or where a queue's name holds another type.
    """

    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lost = tuple(kind for kind in self.connection_errors if kind is not KeyError)
        self.channel_errors = (*self.channel_errors, *UNREADABLE)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Tell of it, and wait a little before the next try; a lost connection is waited for by itself."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)  # of a setting that is set
            super().on_connection_error_after_connected(exc)
        if isinstance(exc, UNREADABLE):
            log.warning("a message cannot be read: it is dropped", reason=repr(exc)[:200])
            time.sleep(NEXT_S)
        elif not isinstance(exc, self._lost):
            time.sleep(PAUSE_S)
