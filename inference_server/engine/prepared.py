"""Models as ONNX Runtime leaves them after optimising, kept on disk: the next load of the same file is quick.

KEY.prepared     the SHA-256 of what follows; one line of JSON; the optimised graph with its weights, in ONNX Runtime's
                 own format, or files, one after the other

KEY is a digest of everything that the result depends on: the model's bytes, what the registry entry says of it, this
code, ONNX Runtime's version, the options of sessions, and what the processor can do. What does not fit its digest, or
is not to be read, counts as not there and is made anew. Files are put in place whole, so several servers may share the
folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import structlog

from inference_server.detection import GraphSignature, TensorSpec
from inference_server.engine.preprocessing import Entries
from inference_server.engine.runtime import onnxruntime
from inference_server.engine.session import Pieces

log = structlog.get_logger(__name__)

# Where it is decided how a model is read, composed, rehearsed and kept.
_DECIDING = ("detection", "engine")
SUFFIX = ".prepared"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph that was optimised and has run here: what its file said of it, how it is entered (None if it takes no
    pictures), how many frames it takes at once, and its bytes."""

    signature: GraphSignature
    entries: Entries | None
    max_batch: int
    graph: Pieces


class PreparedModels:
    """At most `max_bytes` of prepared models in `folder`. Never raises for what is wrong with the folder: without it a
    load takes longer, that is all."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        notice_code()

    def find(self, key: str) -> Prepared | None:
        """What was kept under `key`, verified; None where there is nothing that can be used."""
        return self._find(key, _prepared)

    def find_files(self, key: str) -> Mapping[str, memoryview] | None:
        """The files kept under `key`, verified, by their names; None where there are none that can be used."""
        return self._find(key, _files)

    def keep(self, key: str, prepared: Prepared) -> None:
        """Keep a prepared model, and drop what was used longest ago where there is no room."""
        head = {
            "entries": prepared.entries and asdict(prepared.entries),
            "max_batch": prepared.max_batch,
            "signature": {**asdict(prepared.signature), "operators": sorted(prepared.signature.operators)},
        }
        self._keep(key, head, *prepared.graph)

    def keep_files(self, key: str, files: Mapping[str, bytes]) -> None:
        """Keep files by their names, and drop what was used longest ago where there is no room."""
        self._keep(key, {"files": {name: len(content) for name, content in files.items()}}, *files.values())

    def _find(self, key: str, read: Callable[[Mapping[str, Any], memoryview], T]) -> T | None:
        path = self.folder / f"{key}{SUFFIX}"
        try:
            # In one piece, and then in views of it: what is put together is copied while no other thread may run.
            digest, line, payload = _parts(path.read_bytes())
            found = read(_head(digest, line, payload, key), payload)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("prepared model ignored", path=str(path), reason=str(error))
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def _keep(self, key: str, head: Mapping[str, Any], *payload: bytes | memoryview) -> None:
        line = json.dumps({"key": key, **head}).encode() + b"\n"
        parts = _digest(line, *payload), line, *payload
        try:
            if self._make_room(sum(map(len, parts))):
                self._write(f"{key}{SUFFIX}", *parts)
        except OSError as error:
            log.warning("prepared model not kept", folder=str(self.folder), reason=str(error))

    def _make_room(self, size: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        found = [(path, path.stat()) for path in self.folder.glob(f"*{SUFFIX}*")]
        taken = sum(seen.st_size for _, seen in found)
        for path, seen in sorted(found, key=lambda one: one[1].st_mtime):
            if size > self.max_bytes or taken + size <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            taken -= seen.st_size
        return taken + size <= self.max_bytes

    def _write(self, name: str, *parts: bytes | memoryview) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
            os.replace(temporary, self.folder / name)  # noqa: PTH105 - of a name, not of a Path
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def key_of(sha256: str, attributes: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The key of the model with this digest and entry for sessions with these `options`, on this machine."""
    says = json.dumps(
        {
            "code": _code(),
            "model": sha256,
            "attributes": dict(attributes),
            "options": dict(options),
            "onnxruntime": onnxruntime.__version__,
            "processor": _processor(),
        },
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(says.encode()).hexdigest()


def notice_code() -> None:
    """Digest the code as it is now: one that takes its place on disk while this runs is not what this is."""
    _code()


@cache
def _code() -> str:
    """A digest of the code that decides: a graph that an older one composed may not be what this one means."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for part in _DECIDING for path in (package / part).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _processor() -> str:
    """What the processor is and can do, as the system tells it; optimised graphs may depend on that."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                return f"{platform.machine()} {line}"
    return f"{platform.machine()} {platform.processor()}"


def _parts(content: bytes) -> tuple[bytes, bytes, memoryview]:
    """Two lines and what follows. Raises ValueError where there are no two lines."""
    first = content.index(b"\n") + 1
    second = content.index(b"\n", first) + 1
    return content[:first], content[first:second], memoryview(content)[second:]


def _head(digest: bytes, line: bytes, payload: memoryview, key: str) -> Mapping[str, Any]:
    """Raises ValueError, KeyError or TypeError for what is not what was once kept under `key`."""
    if digest != _digest(line, payload):
        raise ValueError("it is damaged")
    head: Mapping[str, Any] = json.loads(line)
    if head["key"] != key:
        raise ValueError("it is another's")
    return head


def _prepared(head: Mapping[str, Any], graph: memoryview) -> Prepared:
    entries = None if head["entries"] is None else Entries(**head["entries"])
    return Prepared(_signature(head["signature"]), entries, int(head["max_batch"]), (graph,))


def _files(head: Mapping[str, Any], payload: memoryview) -> Mapping[str, memoryview]:
    files, start = {}, 0
    for name, size in head["files"].items():
        if Path(name).name != name:
            raise ValueError(f"it holds {name!r}, which is no file's name")
        files[name] = payload[start : start + size]
        start += size
    return files


def _digest(line: bytes, *payload: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(line)
    for part in payload:
        digest.update(part)
    return digest.hexdigest().encode() + b"\n"


def _signature(said: Mapping[str, Any]) -> GraphSignature:
    def specs(name: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(one["name"], one["dtype"], None if one["shape"] is None else tuple(one["shape"]))
            for one in said[name]
        )

    return GraphSignature(specs("inputs"), specs("outputs"), dict(said["metadata"]), frozenset(said["operators"]))
