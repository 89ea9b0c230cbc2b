"""Has a version prepared by a process of its own: what a file does to ONNX Runtime is not done to the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog

from inference_server.errors import ModelRefused, PreparationStopped

log = structlog.get_logger(__name__)

_PROGRAM = ("-m", "inference_server.preparing")
# Far more than any model takes that could be served; the next one to be loaded waits for it.
LIMIT_SECONDS = 600.0
LEVELS = ("debug", "info", "warning", "error")


class Standby:
    """A process that has started and waits for something to prepare, so that no version waits for a start.

    Belongs to one thread at a time. Linux ends a process with the *thread* that started it: that must live on.
    """

    def __init__(self) -> None:
        self._waiting: subprocess.Popen[bytes] | None = None

    def renew(self) -> None:
        """Start one if none waits. Where that fails, whoever needs one will say so."""
        if not self._waits():
            with suppress(OSError):
                self._waiting = _start()

    def take(self) -> subprocess.Popen[bytes]:
        """The one that waits, or else one that starts now. Raises OSError."""
        waiting = self._waiting if self._waits() else None
        self._waiting = None
        return waiting or _start()

    def close(self) -> None:
        """End the one that waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.kill()
            waiting.communicate()

    def _waits(self) -> bool:
        if self._waiting is not None and self._waiting.poll() is not None:
            self.close()
        return self._waiting is not None


class Apart:
    """At most one process that prepares one version. `stop` may come from any thread, the rest from that which loads.

    The process runs `inference_server.preparing`, and is that of `standby` if one is there. It has a lower priority
    than the server, and goes when that goes.
    """

    def __init__(self, standby: Standby | None = None) -> None:
        self._standby = standby or Standby()
        self._lock = threading.Lock()  # of what follows
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def prepare(self, request: Mapping[str, Any]) -> str | None:
        """The digest of what was prepared; None where there is no such process to be had, which is logged. Blocks.

        Raises ModelRefused, also where the file ends the process or is never done, and PreparationStopped.
        """
        process = self._begin()
        if process is None:
            return None
        try:
            said, _ = process.communicate(json.dumps(request).encode(), LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise ModelRefused(f"expected an answer to its first frames within {LIMIT_SECONDS:g} s, got none") from None
        with self._lock:
            if self._stopped:
                raise PreparationStopped
        if process.returncode < 0:
            raise ModelRefused(_what_ended_it(-process.returncode))
        if process.returncode:
            log.error("prepared by the server itself: the process for it failed", status=process.returncode)
            return None
        return _answer(json.loads(said))

    def stop(self) -> None:
        """End what is being prepared; nothing is begun any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def _begin(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopped:
                raise PreparationStopped
            try:
                self._process = self._standby.take()
            except OSError as error:
                log.warning("prepared by the server itself: no process can be had", reason=str(error))
            return self._process


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter, our own module
        [sys.executable, *_PROGRAM, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # what a terminal sends to the server is the server's business
    )


def _what_ended_it(number: int) -> str:
    name = {one.value: one.name for one in signal.Signals}.get(number, f"signal {number}")
    if number == signal.SIGKILL:
        return f"the process that prepared the model was killed ({name}), as the system does where memory runs out"
    return f"ONNX Runtime does not survive the model: the process that prepared it ended with {name}"


def _answer(said: Mapping[str, Any]) -> str:
    """Log what the process would have logged. Raises ModelRefused."""
    for entry in said["events"]:
        level = entry.pop("level")
        getattr(log, level if level in LEVELS else "warning")(**entry)
    if "refused" in said:
        raise ModelRefused(said["refused"])
    sha256: str = said["sha256"]
    return sha256
