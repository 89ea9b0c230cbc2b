"""Seccomp: a list of the system calls that a decoder needs; the kernel refuses it all others.

What is refused answers EPERM, which libraries know how to live with; what only code that does not belong here would
ask for (another program, a look into another process, a socket) ends the process with SIGSYS. From Linux 4.14 on, on
x86-64 and ARM64.

The filter is a program for the kernel's packet filter, which sees the number of a call and its arguments, but nothing
that they point to.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from inference_server import kernel

# What an argument must be: its position, the bits that count, and their value.
Test = tuple[int, int, int]
# A call is allowed if all tests of one of these hold.
Cases = Sequence[Sequence[Test]]

_ALL = 0xFFFFFFFF
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PR_SET_NAME = 15
_THREAD = 0x00010000 | 0x00000100  # CLONE_THREAD, CLONE_VM
_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_FIONBIO = 0x5421
_INET, _INET6, _STREAM = 2, 10, 1
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_FOREIGN_CALLS = 0x40000000  # of the x32 interface

# By name the numbers on x86-64 and on ARM64.
# fmt: off
_NUMBERS: Mapping[str, tuple[int, int]] = {
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233),
    # what is open: sockets to the server, frame memory, the spool file
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79),
    "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "dup": (32, 23), "fcntl": (72, 25), "ppoll": (271, 73), "sendto": (44, 206), "recvfrom": (45, 207),
    "sendmsg": (46, 211), "recvmsg": (47, 212), "shutdown": (48, 210),
    # threads and signals
    "clone": (56, 220), "clone3": (435, 435), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "membarrier": (324, 283), "getcpu": (309, 168),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "prctl": (157, 167), "exit": (60, 93), "exit_group": (231, 94),
    # time and chance
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "setitimer": (38, 103), "restart_syscall": (219, 128), "getrandom": (318, 278),
    # questions about oneself
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getrusage": (98, 165), "uname": (63, 160),
    "sysinfo": (99, 179), "prlimit64": (302, 261),
    # of those that only old interfaces or certain C libraries use
    "poll": (7, 73), "getrlimit": (97, 163),
    # a network source
    "socket": (41, 198), "connect": (42, 203), "getsockopt": (55, 209), "setsockopt": (54, 208),
    "getsockname": (51, 204), "getpeername": (52, 205), "ioctl": (16, 29), "pselect6": (270, 72),
    # signs of foreign code
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "bind": (49, 200), "listen": (50, 201),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
}
# fmt: on
_TGKILL = 234, 131
_NETWORK = ("getsockopt", "setsockopt", "getsockname", "getpeername", "connect", "pselect6", "socket", "ioctl")
_FOREIGN = ("execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "bind", "listen")
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def available() -> bool:
    """Whether there is a filter for this machine. Whether the kernel takes it shows when it is installed."""
    return sys.platform == "linux" and platform.machine() in _MACHINES and sys.maxsize > 2**32


def enter(*, network: bool = False) -> None:
    """Leave this process the calls that a decoder needs; with `network`, also TCP connections. Raises OSError.

    Needs no_new_privs, and one thread: it holds for those that come later, not for others that exist.
    """
    program = b"".join((*_same_for_all(network=network), *_its_own()))
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    kernel.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(header))


@cache
def _same_for_all(*, network: bool) -> tuple[bytes, ...]:
    """The instructions that need not be made for every process anew."""
    column, architecture = _MACHINES[platform.machine()]
    program = [_load(4), *_unless_equal(architecture, [_return(_KILL)], otherwise=True)]
    at_least = struct.pack("=HBBI", 0x35, 0, 1, _FOREIGN_CALLS)
    program += [_load(0), at_least, _return(_KILL)]
    for name, cases in _policy(network=network).items():
        program += _unless_equal(_NUMBERS[name][column], [*_decide(cases)])
    return tuple(program)


def _its_own() -> Iterator[bytes]:
    """To signal itself, as abort() does; then the end: nothing else."""
    column, _ = _MACHINES[platform.machine()]
    yield from _unless_equal(_TGKILL[column], [*_decide([[(0, _ALL, os.getpid())]])])
    yield _return(_ERRNO | errno.EPERM)


def _policy(*, network: bool) -> dict[str, Cases | int]:
    """What to do about each call on the list: a verdict, or the cases in which it is allowed."""
    foreign = (*_FOREIGN, *(() if network else ("socket", "connect")))
    allowed = [name for name in _NUMBERS if name not in {*foreign, *_NETWORK}]
    policy: dict[str, Cases | int] = dict.fromkeys(allowed, _ALLOW)
    policy |= {
        "clone": [[(0, _THREAD, _THREAD)]],  # no processes
        "clone3": _ERRNO | errno.ENOSYS,  # its flags cannot be seen; the C library falls back to clone
        "mmap": [[(2, _PROT_EXEC, 0)]],  # no new code
        "mprotect": [[(2, _PROT_EXEC, 0)]],
        "newfstatat": [[(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH)]],  # of what is open
        "prctl": [[(0, _ALL, _PR_SET_NAME)]],
        "prlimit64": [[(0, _ALL, 0)]],
    }
    if network:
        policy |= dict.fromkeys(_NETWORK, _ALLOW)
        policy["socket"] = [[(0, _ALL, family), (1, 0xFF, _STREAM)] for family in (_INET, _INET6)]
        policy["ioctl"] = [[(1, _ALL, _FIONBIO)]]
    return policy | dict.fromkeys(foreign, _KILL)


def _decide(cases: Cases | int) -> Iterator[bytes]:
    """Instructions that end in a verdict."""
    if isinstance(cases, int):
        yield _return(cases)
        return
    for tests in cases:
        allow = [_return(_ALLOW)]
        for position, bits, value in reversed(tests):
            mask = struct.pack("=HBBI", 0x54, 0, 0, bits)
            allow = [_load(16 + 8 * position), mask, *_unless_equal(value, allow)]
        yield from allow
    yield _return(_ERRNO | errno.EPERM)


def _load(offset: int) -> bytes:
    """Look at 32 bits of what is known about the call."""
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _return(verdict: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, verdict)


def _unless_equal(value: int, body: Sequence[bytes], *, otherwise: bool = False) -> Iterator[bytes]:
    """Run `body` if what was loaded is `value`; with `otherwise`, if it is not."""
    hit, miss = (len(body), 0) if otherwise else (0, len(body))
    yield struct.pack("=HBBI", 0x15, hit, miss, value)
    yield from body
