"""The small file in which the server remembers what it last ran, for a start while the registry is away."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from inference_server.engine import ModelVersion

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A version that the registry put into production, and the revision that said so."""

    version: ModelVersion
    revision: int


class StateFile:
    """Remembers the last version applied of each model.

    The file only saves a wait: where it cannot be read or written the server says so in the log and goes on. Methods
    block, and may be called from any thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Announcement] = {}
        self._lock = threading.Lock()

    def load(self) -> list[Announcement]:
        """What the file remembers; nothing where there is none or it cannot be read."""
        try:
            entries = json.loads(self._path.read_bytes())["models"]
            self._known = {entry["model_name"]: _announcement(entry) for entry in entries}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("state file cannot be read, going on without it", path=str(self._path), reason=repr(error))
        return list(self._known.values())

    def remember(self, applied: Announcement) -> None:
        """Write down that a version was applied."""
        with self._lock:
            self._known[applied.version.model_name] = applied
            self._write()

    def forget(self, model_name: str) -> None:
        """Write down that a model is not to be served any more."""
        with self._lock:
            if self._known.pop(model_name, None):
                self._write()

    def _write(self) -> None:
        try:
            _replace(self._path, {"models": [_entry(known) for known in self._known.values()]})
        except OSError as error:
            log.warning("state file cannot be written", path=str(self._path), reason=str(error))


def _entry(known: Announcement) -> dict[str, Any]:
    return {**asdict(known.version), "path": str(known.version.path), "revision": known.revision}


def _announcement(entry: dict[str, Any]) -> Announcement:
    fields = dict(entry)
    revision = int(fields.pop("revision"))
    return Announcement(ModelVersion(**{**fields, "path": Path(fields["path"])}), revision)


def _replace(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
