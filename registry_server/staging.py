"""Files on their way into models/: hidden while they arrive, then placed under their name in one step.

A file arrives in models/.uploads/ under an exclusive lock, which the system drops with the process that held it. So
what can be locked was left by a dead server and may go, while the uploads of a live one are left alone. The hidden name
stays until the version is registered: a placed file that is a leftover's other name, and that no entry names, is an
orphan.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from registry_server.artifacts import MODELS_FOLDER, read_artifact
from registry_server.errors import DataDamaged, InvalidField, PlaceTaken, StorageFull, StorageUnavailable
from registry_server.files import Files
from registry_server.steps import Artifact, Digest

STAGING_FOLDER = ".uploads"
FILE_NAME = "model.onnx"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ATTEMPTS = 5


def place_of(model_name: str, version: int) -> str:
    """Where the file of an uploaded version lies, as entries spell it."""
    return f"{MODELS_FOLDER}/{model_name}/v{version}/{FILE_NAME}"


class StagingFolder:
    """models/.uploads/ below `root`. All methods block."""

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self.root = root
        self.files = files or Files()
        self._folder = root / MODELS_FOLDER / STAGING_FOLDER

    def new(self, expected: Digest) -> StagedFile:
        """A file that is yet to be opened, for what is expected."""
        return StagedFile(self, expected)

    def create(self) -> tuple[Path, int]:
        """Make a hidden file; returns its path and the descriptor that holds its lock."""
        self._folder.mkdir(exist_ok=True)
        for _ in range(_ATTEMPTS):
            path = self._folder / f"{token_hex(8)}.part"
            descriptor = self.files.create(path)
            # Between these two steps another server that starts may have taken it for a leftover.
            if _lock(descriptor) and path.exists():
                return path, descriptor
            self.files.close(descriptor)
        raise StorageUnavailable(f"cannot upload: {self._folder} is being cleared over and over")

    def clear(self, registered: Callable[[str], bool]) -> int:
        """Remove what dead servers left, and files that they placed but that `registered` does not know by path."""
        cleared = 0
        for path in self._folder.glob("*.part"):
            with explained("clear uploads"), suppress(FileNotFoundError):
                cleared += self._clear_one(path, registered)
        return cleared

    def _clear_one(self, path: Path, registered: Callable[[str], bool]) -> bool:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _lock(descriptor):
                return False
            for orphan in self._placed(os.fstat(descriptor)):
                if not registered(orphan):
                    self.unplace(path, orphan)
            self.files.remove(path)
            return True
        finally:
            self.files.close(descriptor)

    def _placed(self, found: os.stat_result) -> Iterator[str]:
        """Paths of the placed files that are the same file as `found`."""
        if found.st_nlink < 2:
            return
        for target in (self.root / MODELS_FOLDER).glob(f"*/v*/{FILE_NAME}"):
            with suppress(OSError):
                if os.path.samestat(target.lstat(), found):
                    yield str(target.relative_to(self.root))

    def place(self, source: Path, place: str) -> None:
        """Give the file its final name, durably. Raises PlaceTaken if there is one already."""
        target = self._confined(place)
        for attempt in range(_ATTEMPTS):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.files.link(source, target)
            except FileExistsError:
                raise PlaceTaken(place) from None
            except FileNotFoundError:  # another upload has just taken its empty folder away
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        for folder in (target.parent, target.parent.parent, self.root / MODELS_FOLDER):
            self._sync(folder)

    def unplace(self, source: Path, place: str) -> None:
        """Take back what `place` did, and the folders if nothing else is in them."""
        target = self.root / place
        with suppress(FileNotFoundError):
            if os.path.samestat(source.lstat(), target.lstat()):
                self.files.remove(target)
        with suppress(OSError):
            target.parent.rmdir()
            target.parent.parent.rmdir()

    def taken(self, place: str) -> bool:
        """Whether something lies at `place`."""
        return os.path.lexists(self.root / place)

    def _confined(self, place: str) -> Path:
        target = self.root / place
        if not Path(os.path.realpath(target.parent)).is_relative_to(os.path.realpath(self.root / MODELS_FOLDER)):
            raise InvalidField("model_name", f"one whose folder stays inside {MODELS_FOLDER}/ once links are followed")
        return target

    def _sync(self, folder: Path) -> None:
        descriptor = self.files.open_folder(folder)
        try:
            self.files.sync(descriptor)
        finally:
            self.files.close(descriptor)


class StagedFile:
    """One file on its way. Use from one thread at a time; every method but `close` may raise StorageUnavailable."""

    def __init__(self, folder: StagingFolder, expected: Digest) -> None:
        self._folder = folder
        self._path = Path()
        self._descriptor = -1
        self._expected = expected
        self._hash = hashlib.sha256()
        self._size = 0
        self._place = ""

    def open(self) -> None:
        """Make the hidden file."""
        with explained("write the upload"):
            self._path, self._descriptor = self._folder.create()

    def write(self, chunk: bytes) -> None:
        """Append. Raises DataDamaged as soon as there is more than was announced."""
        self._size += len(chunk)
        if self._size > self._expected.size_bytes:
            raise DataDamaged("the upload", "size_bytes", self._expected.size_bytes, f"{self._size} or more")
        self._hash.update(chunk)
        with explained("write the upload"):
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._folder.files.write(self._descriptor, rest) :]

    def finish(self, name: str) -> Artifact:
        """Check that all has come, make it durable, and read it as a model; errors call it `name`."""
        if self._size != self._expected.size_bytes:
            raise DataDamaged("the upload", "size_bytes", self._expected.size_bytes, self._size)
        if self._hash.hexdigest() != self._expected.sha256:
            raise DataDamaged("the upload", "sha256", self._expected.sha256, self._hash.hexdigest())
        with explained("write the upload"):
            self._folder.files.sync(self._descriptor)
            with self._path.open("rb") as file:
                return read_artifact(name, file, None, self._expected)

    def place(self, place: str) -> None:
        """Give it its final name; a second call moves it."""
        if place == self._place:
            return
        self.unplace()
        self._place = place  # first: whatever goes wrong within is taken back by unplace
        with explained("place the upload"):
            self._folder.place(self._path, place)

    def unplace(self) -> None:
        """Take back `place`. A file that is not this one stays where it is."""
        if self._place:
            with explained("remove the upload"):
                self._folder.unplace(self._path, self._place)
            self._place = ""

    def close(self) -> None:
        """Drop the hidden name, then the lock; where the file was placed, that name stays."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self._folder.files.remove(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn OSError into StorageFull or StorageUnavailable."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageUnavailable
        raise kind(f"cannot {what}: {error.strerror or error}") from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
