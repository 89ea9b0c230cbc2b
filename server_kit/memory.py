"""What glibc does with memory that is free; other C libraries have no such calls and no such need."""

from __future__ import annotations

import ctypes
import sys

# From its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
MIB = 1 << 20


def settle() -> None:
    """Have all threads allocate from one arena that keeps what a few large requests take. To be called before threads.

    glibc makes up to eight arenas for each core, and gives free memory at the end of one back to the system only in the
    first: what a server was seen to hold at rest went up and down by the memory of a session. By itself it would also
    give the first one's back after every large request, and have the kernel clear it again for the next: 1.2 ms more
    for one of 1.2 MB.
    """
    if mallopt := getattr(_LIBC, "mallopt", None):
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 32 * MIB)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 32 * MIB)


def release_free() -> None:
    """Give free memory back to the system: glibc keeps what lies between blocks in use."""
    if malloc_trim := getattr(_LIBC, "malloc_trim", None):
        malloc_trim(0)
