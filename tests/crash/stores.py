"""What can be told of a storage from outside, without the server: one class for each kind of URL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from registry_server.catalog import Catalog, InvalidDocument
from registry_server.document import MalformedText, parse


class JsonFile:
    """models/registry.json, the default."""

    flags: Sequence[str] = ()

    def __init__(self, models: Path) -> None:
        self._file = models / "registry.json"
        self._stays = {"registry.json", "registry.json.lock"}

    def torn(self) -> str | None:
        """Why what is on disk now is not a whole registry; None if it is one, or none yet."""
        try:
            Catalog.read(parse(self._file.read_bytes()))
        except FileNotFoundError:
            return None
        except (MalformedText, InvalidDocument) as error:
            return str(error)
        return None

    def leftover(self) -> list[str]:
        """Names of files that nobody needs any more."""
        return sorted(
            path.name for path in self._file.parent.iterdir() if path.is_file() and path.name not in self._stays
        )


class SqliteFile:
    """A database file inside models/; its log beside it is part of it."""

    def __init__(self, models: Path, url: str) -> None:
        self._file = models / Path(url.removeprefix("sqlite:///")).name
        self._models = models
        self.flags: Sequence[str] = ("--storage", f"sqlite:///{self._file}")

    def torn(self) -> str | None:
        """Why what is on disk now is not a whole database; None if it is one, or none yet."""
        if not self._file.exists():
            return None
        with sqlite3.connect(self._file) as connection:
            answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
        connection.close()
        return None if answer == "ok" else str(answer)

    def leftover(self) -> list[str]:
        """Names of files that nobody needs any more."""
        name = self._file.name
        stays = {name, f"{name}-wal", f"{name}-shm", f"{name}.lock"}
        return sorted(path.name for path in self._models.iterdir() if path.is_file() and path.name not in stays)


Store = JsonFile | SqliteFile


def store(url: str, models: Path) -> Store:
    """`json`, or sqlite:///NAME for a database of that name inside models/."""
    if url == "json":
        return JsonFile(models)
    if url.startswith("sqlite:///"):
        return SqliteFile(models, url)
    raise ValueError(f"expected json or sqlite:///NAME, got {url!r}")
