"""Regions of POSIX shared memory that callers on this machine register, to put tensors in and have them put there.

Nothing is mapped: whoever made the memory can make it smaller at any time, and touching a mapped page that is gone ends
the process. Reading and writing it as the file that it is costs one copy and is an error then.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference_server.errors import InvalidField, NotSupported, Overloaded, RegionExists, RegionUnknown
from inference_server.tensors.datatypes import Buffer

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux has POSIX shared memory
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}")
MAX_REGIONS = 1000


@dataclass(frozen=True, slots=True)
class Region:
    """`byte_size` bytes from `offset` on in the memory called `key`; `name` is what requests call it."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int

    def read(self, offset: int, byte_size: int) -> Buffer:
        """Copy out so many bytes. Raises InvalidField where they are not there."""
        self._check(offset, byte_size)
        buffer = np.empty(byte_size, np.uint8).data
        if os.preadv(self.descriptor, [buffer], self.offset + offset) != byte_size:
            raise InvalidField("shared_memory_region", f"all of {self.key!r}, which has become smaller")
        return buffer

    def write(self, content: Buffer, offset: int, room: int) -> None:
        """Copy in. Raises InvalidField where `content` is larger than `room`, or that lies outside of the region."""
        self._check(offset, room)
        if len(content) > room:
            raise InvalidField("shared_memory_byte_size", f"{len(content)} bytes or more for this output, got {room}")
        if os.pwrite(self.descriptor, content, self.offset + offset) != len(content):
            raise InvalidField("shared_memory_region", f"{self.key!r} to take {len(content)} bytes")

    def _check(self, offset: int, byte_size: int) -> None:
        if not 0 <= offset <= offset + byte_size <= self.byte_size:
            raise InvalidField(
                "shared_memory_offset, shared_memory_byte_size",
                f"bytes of region {self.name!r}, which has {self.byte_size}, got {byte_size} from {offset} on",
            )


class Regions:
    """What is registered, by name. With `prefix` None nothing can be; else keys begin with it."""

    def __init__(self, prefix: str | None) -> None:
        self._prefix = None if prefix is None else prefix.removeprefix("/")
        self._regions: dict[str, Region] = {}

    @property
    def allowed(self) -> bool:
        return self._prefix is not None

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Raises NotSupported, InvalidField, RegionExists, Overloaded."""
        prefix = self._check_allowed()
        if not name:
            raise InvalidField("name", "a name for the region")
        if name in self._regions:
            raise RegionExists(name)
        if len(self._regions) >= MAX_REGIONS:
            raise Overloaded(f"{MAX_REGIONS} regions of shared memory are registered, the limit of this server")
        plain = key.removeprefix("/")
        if not NAME.fullmatch(plain) or not plain.startswith(prefix):
            raise InvalidField("key", f"the name of POSIX shared memory that begins with {prefix!r}, got {key[:200]!r}")
        self._regions[name] = Region(name, key, offset, byte_size, _open(plain, offset, byte_size))

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all of them; none of that name is no error."""
        self._check_allowed()
        for gone in [name] if name else list(self._regions):
            if (region := self._regions.pop(gone, None)) is not None:
                os.close(region.descriptor)

    def find(self, name: str) -> Region:
        """Raises NotSupported, RegionUnknown."""
        self._check_allowed()
        if name not in self._regions:
            raise RegionUnknown(name)
        return self._regions[name]

    def __iter__(self) -> Iterator[Region]:
        self._check_allowed()
        return iter(list(self._regions.values()))

    def close(self) -> None:
        if self.allowed:
            self.unregister()

    def _check_allowed(self) -> str:
        if self._prefix is None:
            raise NotSupported("this server takes no shared memory: start it with --shared-memory PREFIX")
        return self._prefix


def _open(name: str, offset: int, byte_size: int) -> int:
    try:
        descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidField("key", f"shared memory that this server may open, got {name!r}: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or byte_size < 1 or offset + byte_size > found.st_size:
        os.close(descriptor)
        raise InvalidField(
            "offset, byte_size", f"bytes of {name!r}, which has {found.st_size}, got {byte_size} from {offset} on"
        )
    return descriptor
