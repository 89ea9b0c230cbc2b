"""Landlock: the kernel refuses a process files and connections, whatever the user that it runs as may do.

A process that has entered opens no path, binds no TCP port and connects to none but those named, and from Linux 6.12 on
sends no signal to processes outside. What was open before stays open. From Linux 5.13 on; connections from 6.7 on.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from inference_server import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures
_CREATE_RULESET_VERSION = 1
_RULE_NET_PORT = 2
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPES = 3  # abstract Unix sockets and signals
# How many kinds of access to files each version knows.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_RIGHTS_SINCE_5 = 16


def version() -> int:
    """Which version of the interface the kernel has. Raises OSError where it has none or it is switched off."""
    return kernel.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)


def enter(connect_ports: Sequence[int] = ()) -> None:
    """Refuse this process all files and connections from now on, but TCP to `connect_ports`. Raises OSError."""
    abi = version()
    rights = (1 << _FILE_RIGHTS.get(abi, _FILE_RIGHTS_SINCE_5)) - 1
    handled = [rights]
    if abi >= 4:
        handled.append(_BIND_TCP | _CONNECT_TCP)
    if abi >= 6:
        handled.append(_SCOPES)
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    ruleset = kernel.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for port in connect_ports if abi >= 4 else ():
            rule = ctypes.c_char_p(struct.pack("=QQ", _CONNECT_TCP, port))
            kernel.syscall(_ADD_RULE, ruleset, _RULE_NET_PORT, rule, 0)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
