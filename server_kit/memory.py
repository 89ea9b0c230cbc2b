"""What glibc does with memory that is free; other C libraries have no such calls and no such need."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # from its malloc.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def use_one_arena() -> None:
    """Have all threads allocate from one arena. To be called before there are any.

    glibc makes up to eight for each core, and gives free memory at the end of one back to the system only in the first:
    what a server was seen to hold at rest went up and down by the memory of a session.
    """
    if mallopt := getattr(_LIBC, "mallopt", None):
        mallopt(_M_ARENA_MAX, 1)


def release_free() -> None:
    """Give free memory back to the system: glibc keeps what lies between blocks in use."""
    if malloc_trim := getattr(_LIBC, "malloc_trim", None):
        malloc_trim(0)
