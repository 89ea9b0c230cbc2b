"""Notices that someone else has changed the registry file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from watchfiles import awatch

from registry_server.registry import Registry

log = structlog.get_logger(__name__)

LOOK_EVERY_SECONDS = 0.5
"""The file is looked at this often even where the system sends no notice, as on network file systems."""

_GATHER_MILLISECONDS = 50


async def follow_file(registry: Registry, path: Path) -> None:
    """Refresh the registry soon after each change of the file at `path`, until cancelled."""
    while True:
        try:
            async for _ in _signs_of_change(path):
                await registry.refresh()
        except OSError as error:  # the folder is gone, or the system is out of watches
            log.warning("no notice of changes; looking at the file instead", reason=str(error))
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        await registry.refresh()


def _signs_of_change(path: Path) -> AsyncIterator[object]:
    """Yields when the file may have changed, and every LOOK_EVERY_SECONDS."""
    return awatch(
        path.parent,
        watch_filter=lambda _, changed: Path(changed).name == path.name,
        debounce=_GATHER_MILLISECONDS,
        rust_timeout=int(LOOK_EVERY_SECONDS * 1000),
        yield_on_timeout=True,
        recursive=False,
    )
