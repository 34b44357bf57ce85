"""Structured logs on stderr: readable in a terminal, JSON lines elsewhere; libraries' own words as well."""

import io
import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

from shared.output import discard


class _Patient(io.TextIOBase):
    """Whatever standard error is at that time; what it does not take is lost, and nobody ends for it."""

    def write(self, text: str, /) -> int:
        """Write, and let it go at once."""
        with suppress(OSError, ValueError):
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except BrokenPipeError:
                discard(sys.stderr)  # nobody will ever read it
        return len(text)


stderr = cast(TextIO, _Patient())


class _Told(logging.Handler):
    """Writes to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=stderr)


def configure(level: int = logging.INFO) -> None:
    """Set structlog up for this process, and have the standard library's warnings and errors told in the same way."""
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    merged, named = structlog.contextvars.merge_contextvars, structlog.processors.add_log_level
    structlog.configure(
        processors=[merged, named, stamp, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stderr),
    )
    told = _Told()
    told.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[merged, named, structlog.stdlib.add_logger_name, stamp],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Told)), told]
