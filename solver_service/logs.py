"""Structured logs on stderr: readable in a terminal, JSON lines elsewhere; libraries' own words as well."""

import logging
import sys

import structlog


class _Told(logging.Handler):
    """Writes to whatever standard error is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr, flush=True)


def configure(level: int = logging.INFO) -> None:
    """Set structlog up for this process, and have the standard library's warnings and errors told in the same way."""
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    merged, named = structlog.contextvars.merge_contextvars, structlog.processors.add_log_level
    structlog.configure(
        processors=[merged, named, stamp, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
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
