"""Structured logs on standard error, for people or for machines."""

from __future__ import annotations

import logging
import sys

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")


def configure(level: str, style: str) -> None:
    """Send every log, those of libraries included, to standard error: `style` is one of FORMATS, `level` of LEVELS."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_final_processors(style)],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # It tells of every change to a file, the servers' own included.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def level() -> str:
    """The least severe level, of LEVELS, that is written."""
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


def set_level(level: str) -> None:
    """Write everything from `level`, of LEVELS, on."""
    logging.getLogger().setLevel(level.upper())


def _final_processors(style: str) -> list[structlog.typing.Processor]:
    if style == "json":
        return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    plain = structlog.dev.RichTracebackFormatter() if sys.stderr.isatty() else structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
