"""Which storage a URL names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry_server.json_storage import JsonFileStorage
from registry_server.sqlite_storage import SqliteStorage
from registry_server.storage import Storage

DEFAULT = "file:models/registry.json"
STORAGES: Mapping[str, type[JsonFileStorage | SqliteStorage]] = {"file": JsonFileStorage, "sqlite": SqliteStorage}


@dataclass(frozen=True, slots=True)
class Location:
    """A kind of storage, a key of STORAGES, and the path of its file, which may be relative to --root."""

    scheme: str
    path: Path

    def under(self, root: Path) -> Location:
        """The same with its path taken relative to `root`."""
        return Location(self.scheme, root / self.path)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.path}"

    def open(self, lock_timeout_seconds: float) -> Storage:
        """The storage. Touches nothing yet."""
        return STORAGES[self.scheme](self.path, lock_timeout_seconds=lock_timeout_seconds)


def parse(url: str) -> Location:
    """Read a URL: SCHEME:///ABSOLUTE/PATH or SCHEME:RELATIVE/PATH. Raises ValueError."""
    parts = urlsplit(url)
    spellings = " or ".join(f"{scheme}:///PATH" for scheme in STORAGES)
    if parts.scheme not in STORAGES:
        raise ValueError(f"expected {spellings}, got {url!r}")
    if parts.netloc:
        hint = f"{parts.scheme}:{parts.netloc}{parts.path}"
        raise ValueError(f"{url!r} names a host; write {hint} for a path relative to --root, or {spellings}")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r}: expected a path alone; write ? as %3F and # as %23")
    path = unquote(parts.path)
    if not path.strip("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{url!r} names no file: expected {spellings}")
    return Location(parts.scheme, Path(f"/{path.lstrip('/')}" if path.startswith("/") else path))
