"""Memory that the server and one decoder share: frames side by side, without a name, gone with its last user."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.geometry import Layout
from inference_server.video.wire import ProtocolError

# Makes memory such that a device reads it by itself; what it returns ends that, before the memory is unmapped.
Pin = Callable[[NDArray[np.uint8]], Callable[[], None]]


def frame_bytes(layout: Layout) -> int:
    return layout.width * layout.height * 3


def create(size: int) -> int:
    """A file descriptor of `size` bytes of shared memory, all zero. The caller closes it."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    fd = os.memfd_create("videoai-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    # A decoder that shrank the memory would kill whoever reads it.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class _Mapping(mmap.mmap):
    """Mapped memory that is let go by the device first: `unpin` is called when its last view is gone.

    When an array of NumPy goes, some releases tell before the memory is unmapped, others (2.5) after it.
    """

    unpin: Callable[[], None] | None = None

    def __del__(self) -> None:
        if self.unpin is not None:
            self.unpin()


class FrameMemory:
    """`slots` slots of `slot_bytes` bytes behind the descriptor `fd`; mapped as long as there is a view of it."""

    def __init__(self, fd: int, slots: int, slot_bytes: int, *, writable: bool, pin: Pin | None = None) -> None:
        self.slots = slots
        self.slot_bytes = slot_bytes
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._taken: set[int] = set()
        mapping = _Mapping(fd, slots * slot_bytes, access=access)
        self._pixels = np.frombuffer(mapping, np.uint8)
        if pin is not None:
            mapping.unpin = pin(self._pixels)

    def view(self, slot: int, layout: Layout) -> NDArray[np.uint8]:
        """The picture in `slot`: uint8 (height, width, 3)."""
        first = slot * self.slot_bytes
        return self._pixels[first : first + frame_bytes(layout)].reshape(layout.height, layout.width, 3)

    def take(self, slot: int) -> None:
        """The server holds `slot` from now on. Raises ProtocolError if it does already."""
        if slot in self._taken:
            raise ProtocolError(f"slot: expected one that is free, got {slot}")
        self._taken.add(slot)

    @property
    def taken(self) -> int:
        """How many slots the server holds."""
        return len(self._taken)

    def give_back(self, slot: int) -> None:
        self._taken.remove(slot)
