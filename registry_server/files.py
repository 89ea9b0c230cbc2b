"""The file operations that the storage is built on, one small step each, so that a test can fail any of them."""

from __future__ import annotations

import os
from pathlib import Path

PIECE = 2**20


class Files:
    """Thin names for system calls; every method may raise OSError."""

    def read(self, path: Path, known: bytes = b"") -> bytes:
        """The content of a file; `known` itself if it holds that, for which hardly any more memory is taken."""
        with path.open("rb", buffering=0) as file:
            position = 0
            while piece := file.read(PIECE):
                if not known.startswith(piece, position):
                    return known[:position] + piece + file.read()
                position += len(piece)
            return known if position == len(known) else known[:position]

    def stat(self, path: Path) -> os.stat_result:
        return path.stat()

    def open(self, path: Path) -> int:
        """An existing file, for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        """A new file, open for writing; fails if there is one already."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def chmod(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)

    def chown(self, descriptor: int, user: int, group: int) -> None:
        os.fchown(descriptor, user, group)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name; fails if that is taken."""
        os.link(source, target, follow_symlinks=False)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def open_folder(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
