"""Notices that someone else has changed what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
from watchfiles import awatch

from registry_server.registry import Registry

log = structlog.get_logger(__name__)

LOOK_EVERY_SECONDS = 0.5
"""What is stored is looked at this often even where the system sends no notice, as on network file systems."""

_GATHER_MILLISECONDS = 50


async def follow_files(registry: Registry, paths: Sequence[Path]) -> None:
    """Refresh the registry soon after each change of one of the files, all in one folder, until cancelled."""
    while True:
        try:
            async for _ in _signs_of_change(paths):
                await registry.refresh()
        except OSError as error:  # the folder is gone, or the system is out of watches
            log.warning("no notice of changes; looking at the file instead", reason=str(error))
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        await registry.refresh()


def _signs_of_change(paths: Sequence[Path]) -> AsyncIterator[object]:
    """Yields when a file may have changed, and every LOOK_EVERY_SECONDS."""
    names = {path.name for path in paths}
    return awatch(
        paths[0].parent,
        watch_filter=lambda _, changed: Path(changed).name in names,
        debounce=_GATHER_MILLISECONDS,
        rust_timeout=int(LOOK_EVERY_SECONDS * 1000),
        yield_on_timeout=True,
        recursive=False,
    )
