"""Work that runs beside everything else; its failure is never silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)


def start(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task whose failure is logged when it happens, whoever awaits it and whenever."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    return task


@asynccontextmanager
async def running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `works` beside the body, and end them with it."""
    tasks = [start(work, getattr(work, "__qualname__", "work")) for work in works]
    try:
        yield
    finally:
        await stop(*tasks)


async def stop(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a background task failed", task=task.get_name(), exc_info=task.exception())
