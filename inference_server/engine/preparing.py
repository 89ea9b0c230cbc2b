"""The process that prepares a version for the CPU.

Run as `python -m inference_server.engine.preparing PID`, PID being the server. It reads one JSON object from standard
input, `Request`, prepares that version, keeps the result in the folder, and writes another to standard output: the
digest of the version's files as "sha256", or why it is "refused"; and what is to be logged as "events".
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from inference_server import kernel
from inference_server.engine.graph import ModelVersion
from inference_server.engine.loading import prepare
from inference_server.engine.prepared import PreparedModels
from inference_server.engine.session import STEPS_DOWN
from inference_server.errors import ModelRefused

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
    events: list[Event] = []
    structlog.configure(processors=[_collector(events)])
    request = json.load(sys.stdin)
    version = ModelVersion(**{**request["version"], "path": Path(request["version"]["path"])})
    keep = PreparedModels(Path(request["folder"]), request["max_bytes"])
    said: dict[str, Any] = {"events": events}
    try:
        said["sha256"] = prepare(version, request["max_batch"], keep)
    except ModelRefused as error:
        said["refused"] = str(error)
    with answer:
        json.dump(said, answer)


def _collector(events: list[Event]) -> structlog.typing.Processor:
    def collect(_: object, level: str, event: Event) -> Event:
        events.append({**{key: value if _plain(value) else str(value) for key, value in event.items()}, "level": level})
        raise structlog.DropEvent

    return collect


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


if __name__ == "__main__":
    main(int(sys.argv[1]))
