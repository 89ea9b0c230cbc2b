"""What a decoder process may not do, from its first instruction on."""

from __future__ import annotations

import mmap
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from inference_server import kernel

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = 64
_OPEN_FILES = 64


def harden() -> None:
    """No core dumps, few open files, no way to new privileges, no look into this process from its equals."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    for capability in range(_CAPABILITIES):  # what no program started from here could regain
        kernel.try_prctl(_PR_CAPBSET_DROP, capability)
    kernel.try_prctl(_PR_SET_NO_NEW_PRIVS, 1)
    kernel.try_prctl(_PR_SET_DUMPABLE, 0)


def limit_memory(extra_bytes: int) -> None:
    """Allow `extra_bytes` of address space beyond what is in use now."""
    _lower(resource.RLIMIT_AS, _address_space() + extra_bytes)


def has_room(size: int) -> bool:
    """Whether this process may still take `size` bytes of memory."""
    try:
        mmap.mmap(-1, max(1, size)).close()
    except OSError:
        return False
    return True


def restart_clock(seconds: float) -> None:
    """End this process (SIGPROF) once it, with its threads, has used the processor for so long from now on.

    The kernel does it, whatever the process is busy with. Waiting does not count.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_file_size(size: int) -> None:
    """Let no file that this process writes grow beyond `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _lower(resource.RLIMIT_FSIZE, size)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    # macOS takes no limit on address space.
    with suppress(ValueError, OSError):
        resource.setrlimit(limit, (value, value))


def _address_space() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
