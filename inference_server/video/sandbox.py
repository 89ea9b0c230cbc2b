"""The walls around a decoder: whatever a hostile video makes of it, it keeps what it was given and gets nothing else.

Three layers, each on its own enough to keep it from files and (the last two) from the network: without capabilities it
is a user like any other, Landlock refuses it files and connections, seccomp refuses it the system calls. A kernel may
lack any of them; `probe` tells which work here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from inference_server import kernel
from inference_server.video import landlock, seccomp

CAPABILITIES, LANDLOCK, SECCOMP = "capabilities", "landlock", "seccomp"
LAYERS = (CAPABILITIES, LANDLOCK, SECCOMP)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a task may do beyond decoding.

    `connect_port`: the one TCP port that it may connect to; None: no network at all.
    """

    connect_port: int | None = None


UPLOAD = Profile()


def enter(profile: Profile, layers: Collection[str]) -> None:
    """Put up `layers` around this process, for good. Raises OSError; then it must not go on.

    All files that it will need are open by now, and it has one thread. Needs no_new_privs.
    """
    if CAPABILITIES in layers:
        kernel.drop_capabilities()
    if LANDLOCK in layers:
        landlock.enter([profile.connect_port] if profile.connect_port else [])
    if SECCOMP in layers:
        seccomp.enter(network=profile.connect_port is not None)


def probe() -> tuple[str, ...]:
    """The layers that this kernel takes, each tried in a process of its own."""
    return tuple(layer for layer in LAYERS if sys.platform == "linux" and _works(layer))


def _works(layer: str) -> bool:
    if layer == SECCOMP and not seccomp.available():
        return False
    child = os.fork()
    if not child:
        with suppress(OSError):
            enter(UPLOAD, (layer,))
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0
