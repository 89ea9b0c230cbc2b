"""Where the catalog lives between two changes.

A storage hands out the stored catalog and replaces it, one change at a time, durably. The registry knows nothing else
about it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from registry_server.catalog import Catalog

Step = Callable[[Catalog], Catalog]
"""Makes the next catalog; returns the very one it was given to change nothing.

It may be called again, with a newer catalog, where the storage changed before the first result was in place.
"""


class Storage(Protocol):
    """Every method may block and be called from any thread.

    They raise StorageUnavailable or RegistryFileInvalid; a change also CommitUncertain or ChangedMeanwhile.
    """

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, the main one first, that change when the stored catalog does; all in one folder."""

    def load(self) -> Catalog:
        """The stored catalog. The same object as before if nothing has changed since."""

    def transact(self, step: Step) -> Catalog:
        """Apply `step` to the stored catalog and return what is stored afterwards, once it is durable.

        No other change, by this process or another, comes between. If `step` raises, nothing changes. What is
        returned is durable even if `step` changed nothing.
        """

    def recover(self) -> None:
        """Before the first load: clear away what a crash may have left, refuse what could never be written, and check
        what is there as far as only a start has time for.
        """

    def close(self) -> None:
        """Let go of what is held open. Only after the last use."""


class MemoryStorage:
    """A storage that forgets everything when the process ends."""

    files: tuple[Path, ...] = ()

    def __init__(self, catalog: Catalog | None = None) -> None:
        self._catalog = catalog or Catalog.empty()
        self._lock = threading.Lock()

    def load(self) -> Catalog:
        return self._catalog

    def transact(self, step: Step) -> Catalog:
        with self._lock:
            self._catalog = step(self._catalog)
            return self._catalog

    def recover(self) -> None:
        """Nothing can be left."""

    def close(self) -> None:
        """Nothing is held."""
