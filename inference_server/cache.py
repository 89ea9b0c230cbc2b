"""Model files by digest in a folder of bounded size, which several servers of a machine may share.

SHA256.onnx          a whole file; whoever loads or runs it holds a shared lock on it
SHA256.SIZE.part     a file on its way, that size counted as taken; whoever writes it holds an exclusive lock
lock                 held while a name comes or goes

The system drops a lock with the process that held it. So what can be locked is in nobody's use: an unfinished file can
be gone on with, and anything can be removed to make room, what was used longest ago first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from inference_server import metrics
from inference_server.errors import ModelRefused

log = structlog.get_logger(__name__)

READ_BYTES = 2**20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{64}\.(onnx|(?P<size>\d+)\.part)")
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Held:
    """A file that stays where it is until released, which may be done twice."""

    def __init__(self, path: Path, descriptor: int = -1) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class ModelCache:
    """At most `max_bytes` of model files in `folder`. All methods block, from any thread, and may raise OSError."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def take(self, sha256: str) -> Held | None:
        """The file with this digest, verified now and held; None if there is none. A damaged one is removed."""
        path = self._path(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        held = Held(path, descriptor)
        try:
            # Whoever has it exclusively has it for a moment only.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, path) and self._verify(descriptor, sha256):
                os.utime(path)
                return held
        except BaseException:
            held.release()
            raise
        held.release()
        return None

    def begin(self, sha256: str, size: int) -> Part | None:
        """Make room for a file and go on with it, or begin it; None while another does, or has done so just now.

        Raises ModelRefused where it does not fit.
        """
        if not 0 < size <= self.max_bytes:
            raise ModelRefused(
                f"the file has {size} bytes, and the cache takes 1..{self.max_bytes} (--max-cache-bytes)"
            )
        whole = self._path(sha256)
        path = whole.with_suffix(f".{size}.part")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if whole.exists():
                return None
            self._make_room(size, path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o644)
            if not _lock(descriptor):
                os.close(descriptor)
                return None
            self._count()
        return Part(self, path, descriptor, sha256, size)

    def place(self, part: Path, sha256: str) -> None:
        """Give a whole file its name, durably."""
        with self._lock():
            part.replace(self._path(sha256))
            _sync(self.folder)
            self._count()

    def remove(self, path: Path) -> None:
        with self._lock(), suppress(FileNotFoundError):
            path.unlink()

    def _path(self, sha256: str) -> Path:
        # It becomes the name of a file, and comes from another machine.
        if not _DIGEST.fullmatch(sha256):
            raise ModelRefused(f"sha256: expected 64 lower-case hexadecimal digits, got {sha256[:100]!r}")
        return self.folder / f"{sha256}.onnx"

    def _verify(self, descriptor: int, sha256: str) -> bool:
        with open(descriptor, "rb", closefd=False) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            log.warning("a cached file is damaged, removing it", sha256=sha256, found=found)
            self.remove(self._path(sha256))
        return found == sha256

    def _make_room(self, size: int, sparing: Path) -> None:
        others = sorted((entry for entry in self._entries() if entry.path != sparing), key=lambda entry: entry.used)
        free = self.max_bytes - sum(entry.size for entry in others)
        for entry in others:
            if free >= size:
                break
            if _remove_unused(entry.path):
                log.info("removed from the cache to make room", file=entry.path.name, size_bytes=entry.size)
                free += entry.size
        if free < size:
            raise ModelRefused(
                f"the file has {size} bytes, and what is in use leaves {max(free, 0)} of the cache's {self.max_bytes}"
                " (--max-cache-bytes)"
            )

    def _entries(self) -> Iterator[_Entry]:
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            with suppress(FileNotFoundError):
                if match:
                    found = path.stat(follow_symlinks=False)
                    yield _Entry(path, int(match["size"] or found.st_size), found.st_mtime)

    def _count(self) -> None:
        metrics.CACHE_BYTES.set(sum(entry.size for entry in self._entries()))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | _FLAGS, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Part:
    """A file on its way into the cache. Use from one thread; what has been written stays if it is closed unfinished."""

    def __init__(self, cache: ModelCache, path: Path, descriptor: int, sha256: str, size: int) -> None:
        self._cache = cache
        self._path = path
        self._descriptor = descriptor
        self._sha256 = sha256
        self._size = size
        self._hash = hashlib.sha256()
        self.position = 0
        self._read_what_is_there()

    def write(self, chunk: bytes) -> None:
        """Append. Raises ModelRefused, and keeps nothing, where that is more than there should be."""
        if len(chunk) > self._size - self.position:
            self.discard()
            raise ModelRefused(f"size_bytes: expected {self._size}, more than that came")
        self._hash.update(chunk)
        rest = memoryview(chunk)
        while rest:
            written = os.write(self._descriptor, rest)
            self.position += written
            rest = rest[written:]

    def finish(self) -> str:
        """If the file is what it should be let the cache have it, else remove it; returns the digest found."""
        found = self._hash.hexdigest()
        if (self.position, found) == (self._size, self._sha256):
            os.fsync(self._descriptor)
            self._cache.place(self._path, self._sha256)
        else:
            self.discard()
        return found

    def discard(self) -> None:
        self._cache.remove(self._path)

    def close(self) -> None:
        os.close(self._descriptor)

    def _read_what_is_there(self) -> None:
        while chunk := os.read(self._descriptor, READ_BYTES):
            self._hash.update(chunk)
            self.position += len(chunk)


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    size: int
    used: float  # when, in seconds since the epoch


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody has it locked; say whether it is gone."""
    try:
        # For writing, though nothing is: without, NFS gives no exclusive lock.
        descriptor = os.open(path, os.O_RDWR | _FLAGS)
    except FileNotFoundError:
        return True
    try:
        if not _lock(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
