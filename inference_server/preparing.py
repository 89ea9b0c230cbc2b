"""The process that prepares a version for the CPU; `inference_server.engine.apart` starts it.

Once it has started it waits for a JSON object on standard input, which says what to prepare and where to keep the
result. It writes a line as soon as it has read that, and then another object: the digest of the version's files as
"sha256", or why it is "refused"; and what is to be logged as "events". Standard output is nothing else's.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from inference_server import kernel
from inference_server.cpus import STEPS_DOWN

# By so much rather than the server should the kernel end this process where memory runs out; the most is 1000.
_RATHER = 500

Event = MutableMapping[str, Any]


def main(server: int) -> None:
    """Prepare one version for the server with this process number, and exit."""
    kernel.die_with(server)
    os.nice(STEPS_DOWN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server, which is told the same, decides
    _volunteer()
    # Libraries that print would otherwise write into the answer.
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        json.dump(_prepare(answer), answer, default=str)
    os._exit(0)  # an interpreter with all this in it takes 0.1 s to end, and a version waits for it


def _volunteer() -> None:
    with suppress(OSError, ValueError):
        place = Path("/proc/self/oom_score_adj")
        place.write_text(str(min(1000, int(place.read_text()) + _RATHER)))


def _prepare(answer: TextIO) -> Mapping[str, Any]:
    # All that takes time comes after the priority, and as far as it can before the request.
    import numpy.random  # noqa: F401 - NumPy leaves it for its first use
    import structlog

    from inference_server.engine import Device, ModelVersion, PreparedModels, apart, notice_code, prepare, try_out
    from inference_server.errors import ModelRefused

    try_out(Device("cpu"))
    notice_code()

    events: list[Event] = []

    def collect(_: object, level: str, event: Event) -> Event:
        events.append({**event, "level": level})
        raise structlog.DropEvent

    structlog.configure(processors=[collect])
    request = json.load(sys.stdin)
    answer.write(apart.BEGUN.decode())
    answer.flush()
    version = ModelVersion(**{**request["version"], "path": Path(request["version"]["path"])})
    keep = PreparedModels(Path(request["folder"]), request["max_bytes"])
    try:
        return {"sha256": prepare(version, request["max_batch"], keep), "events": events}
    except ModelRefused as error:
        return {"refused": str(error), "events": events}
