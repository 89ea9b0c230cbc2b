"""Files under folders that the operator allows."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from inference_server.errors import InvalidField, SourceNotAllowed, SourceNotFound, SourceRefused
from inference_server.video import DecodedStream, OpenedFile

_DENIED = "uri: the file is not under a folder that this server allows (--allow-folder)"


class AllowedFolders:
    """Opens regular files in these folders and below, wherever symbolic links in them lead inside one of them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._given = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100 - not resolved, on purpose
        self._real = [folder.resolve(strict=True) for folder in folders]

    def open(self, path: str) -> int:
        """Open `path` for reading and return its descriptor. Raises SourceError and InvalidField.

        What lies outside is refused before anything is looked up, so that nobody learns whether it exists.
        """
        asked = Path(path)
        if not any(asked.is_relative_to(folder) for folder in (*self._given, *self._real)):
            raise SourceNotAllowed(_DENIED)
        try:
            real = asked.resolve()
        except (OSError, RuntimeError):  # a circle of links
            raise SourceNotFound(_absent(path)) from None
        for folder in self._real:
            if real.is_relative_to(folder):
                return _descend(folder, real.relative_to(folder).parts, path)
        raise SourceNotAllowed(_DENIED)


def _descend(folder: Path, parts: Sequence[str], shown: str) -> int:
    """Open what was resolved step by step from `folder`: a link put there meanwhile is not followed."""
    if not parts:
        raise SourceRefused(_irregular(shown))
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = inner
            return _open_regular(parts[-1], at, shown)
        finally:
            os.close(at)
    except OSError as error:
        raise _explain(error, shown) from None


def _open_regular(name: str, folder: int, shown: str) -> int:
    # To open a device may already do something, so look first; what is open is looked at again, for it may be another.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise SourceRefused(_irregular(shown))
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SourceRefused(_irregular(shown))
    return fd


def _explain(error: OSError, shown: str) -> Exception:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            return SourceNotFound(_absent(shown))
        case errno.EACCES | errno.EPERM:
            return SourceNotAllowed(f"uri: this server may not read {shown}: {error.strerror}")
        case errno.ENAMETOOLONG:
            return InvalidField("uri", "a path that is short enough for this system")
    return SourceRefused(f"uri: {shown} cannot be opened: {error.strerror}")


def _absent(shown: str) -> str:
    return f"uri: there is no file {shown}"


def _irregular(shown: str) -> str:
    return f"uri: expected a regular file, {shown} is something else"


@dataclass(frozen=True, slots=True)
class _Opened:
    file: OpenedFile
    live: bool = False
    clock: None = None
    container: None = None

    async def pump(self, decoded: DecodedStream) -> None:
        """Nothing: the decoder reads the file by itself."""


def _close_unwanted(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, read from its beginning to its end."""

    folders: AllowedFolders
    path: str

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_Opened]:
        # In a thread, for a network file system may take its time.
        opening = asyncio.ensure_future(asyncio.to_thread(self.folders.open, self.path))
        try:
            fd = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        try:
            yield _Opened(OpenedFile(fd, os.fstat(fd).st_size))
        finally:
            os.close(fd)
