"""Has a version prepared by a process of its own: what a file does to ONNX Runtime is not done to the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from inference_server import children
from inference_server.errors import ModelRefused, NotPrepared, PreparationStopped

log = structlog.get_logger(__name__)

_command = partial(children.command, "inference_server.preparing")
# What it writes before anything that the file can be blamed for.
BEGUN = b"begun\n"
# Far more than any model takes that could be served.
LIMIT_SECONDS = 600.0
LEVELS = ("debug", "info", "warning", "error")
# By which the kernel or the C library ends a process for what it does itself.
_OWN_DOING = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP"}


class Standby:
    """A process that has started and waits for something to prepare, so that no version waits for a start.

    May be used from several threads. Linux ends a process with the *thread* that started it: that must live on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of what follows
        self._waiting: subprocess.Popen[bytes] | None = None

    def renew(self) -> None:
        """Start one if none waits. Where that fails, whoever needs one will say so."""
        with self._lock:
            if not self._waits():
                with suppress(OSError):
                    self._waiting = _start()

    def take(self) -> subprocess.Popen[bytes]:
        """The one that waits, or else one that starts now. Raises OSError."""
        with self._lock:
            waiting = self._waiting if self._waits() else None
            self._waiting = None
        return waiting or _start()

    def close(self) -> None:
        """End the one that waits."""
        with self._lock:
            self._end()

    def _waits(self) -> bool:
        if self._waiting is not None and self._waiting.poll() is not None:
            self._end()
        return self._waiting is not None

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            _kill(waiting)


class Apart:
    """Prepares one version by a process. `stop` may come from any thread, the rest from that which loads.

    The process runs `inference_server.preparing`, and is that of `standby` if one is there. It has a lower priority
    than the server, and goes when that goes.
    """

    def __init__(self, standby: Standby | None = None) -> None:
        self._standby = standby or Standby()
        self._lock = threading.Lock()  # of what follows
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def prepare(self, request: Mapping[str, Any]) -> str | None:
        """The digest of what was prepared; None where no process is to be had that does it, which is logged. Blocks.

        Raises ModelRefused where the file is no good, ends the process or is never done, NotPrepared where it is not
        the file that ends it, and PreparationStopped.
        """
        status, said = self._run(request)
        if status < 0 and not _to_blame(status, said):
            log.warning("prepared once more: the process for it was ended", by=_signal(status))
            status, said = self._run(request)
        if _to_blame(status, said):
            reason = f"the process that prepared it ended with {_signal(status)}"
            raise ModelRefused(f"ONNX Runtime does not survive the model: {reason}")
        if status < 0 and said.startswith(BEGUN):
            reason = f"the process that prepared it was ended twice ({_signal(status)}), as where memory runs out"
            raise NotPrepared(f"the model is not prepared: {reason}")
        try:
            answer = json.loads(said.removeprefix(BEGUN))
        except ValueError:
            log.error("prepared by the server itself: no process does it", status=status)
            return None
        return _read(answer)

    def stop(self) -> None:
        """End what is being prepared; nothing is begun any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def _run(self, request: Mapping[str, Any]) -> tuple[int, bytes]:
        """How it ended, and all that it said."""
        try:
            process = self._begin()
        except OSError as error:
            log.warning("no process can be had to prepare a version", reason=str(error))
            return 0, b""
        try:
            said, _ = process.communicate(json.dumps(request).encode(), LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise ModelRefused(f"expected an answer to its first frames within {LIMIT_SECONDS:g} s, got none") from None
        with self._lock:
            if self._stopped:
                raise PreparationStopped
        return process.returncode, said

    def _begin(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise PreparationStopped
            self._process = self._standby.take()
            return self._process


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter, our own module
        _command(os.getpid()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=children.environment(),
        # What a terminal sends to the server is the server's business. In a session of its own it would have a share of
        # the processor of its own as well, whatever its priority (autogroups of sched(7)).
        process_group=0,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()  # which also closes what led to it


def _to_blame(status: int, said: bytes) -> bool:
    """Whether a process that ended like this did so by what the file made it do."""
    return said.startswith(BEGUN) and _signal(status) in _OWN_DOING


def _signal(status: int) -> str:
    return {-one.value: one.name for one in signal.Signals}.get(status, f"signal {-status}")


def _read(answer: Mapping[str, Any]) -> str:
    """The digest, with all logged that the process would have logged. Raises ModelRefused."""
    for entry in answer["events"]:
        level = entry.pop("level")
        getattr(log, level if level in LEVELS else "warning")(**entry)
    if "refused" in answer:
        raise ModelRefused(answer["refused"])
    sha256: str = answer["sha256"]
    return sha256
