"""Calls to the kernel that Python has no function for. Each raises OSError, with the kernel's reason."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_PDEATHSIG = 1


def prctl(option: int, *arguments: int) -> None:
    """prctl(2) with numbers only."""
    _check(_function("prctl")(option, *(ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4])))


def try_prctl(option: int, value: int) -> None:
    """The same with one number, where the system has it, knows the option and allows it."""
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            prctl(option, value)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, `parent`, ends, where the kernel can. Raises nothing."""
    try_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(0)


def syscall(number: int, *arguments: Any) -> int:
    """syscall(2): for calls that the C library has no function for. Pointers come as ctypes objects."""
    widened = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    return _check(_function("syscall")(ctypes.c_long(number), *widened))


def drop_capabilities() -> None:
    """Give up all that the superuser may do more than others, for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)  # of this process
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice 32 each
    _check(_function("capset")(ctypes.byref(header), ctypes.byref(nothing)))


def _function(name: str) -> Any:
    try:
        return getattr(_libc, name)
    except AttributeError:
        raise OSError(f"this system has no {name}") from None


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
