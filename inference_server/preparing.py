"""The process that prepares a version for the CPU.

Run as `python -m inference_server.preparing PID`, PID being the server. Once it has started it waits for a JSON object
on standard input, which says what to prepare and where to keep the result. It writes another one to standard output:
the digest of the version's files as "sha256", or why it is "refused"; and what is to be logged as "events".
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from inference_server import kernel
from inference_server.cpus import STEPS_DOWN

# Where memory runs out, the kernel should take this process and not the server.
_FIRST_TO_GO = "500"

Event = MutableMapping[str, Any]


def main(server: int) -> None:
    kernel.die_with(server)
    os.nice(STEPS_DOWN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    # Libraries that print would otherwise write into the answer.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    said = _prepare()
    with answer:
        json.dump(said, answer)
    os._exit(0)  # an interpreter with all this in it takes 0.1 s to end, and a version waits for it


def _prepare() -> Mapping[str, Any]:
    # All that takes time comes after the priority, and as far as it can before the request.
    import numpy.random  # noqa: F401 - NumPy leaves it for its first use
    import structlog

    from inference_server.engine import Device, ModelVersion, PreparedModels, prepare, try_out
    from inference_server.errors import ModelRefused

    try_out(Device("cpu"))

    events: list[Event] = []

    def collect(_: object, level: str, event: Event) -> Event:
        events.append({**{key: value if _plain(value) else str(value) for key, value in event.items()}, "level": level})
        raise structlog.DropEvent

    structlog.configure(processors=[collect])
    request = json.load(sys.stdin)
    version = ModelVersion(**{**request["version"], "path": Path(request["version"]["path"])})
    keep = PreparedModels(Path(request["folder"]), request["max_bytes"])
    try:
        return {"sha256": prepare(version, request["max_batch"], keep), "events": events}
    except ModelRefused as error:
        return {"refused": str(error), "events": events}


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


if __name__ == "__main__":
    main(int(sys.argv[1]))
