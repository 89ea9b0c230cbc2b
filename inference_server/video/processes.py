"""Decoder processes as the server sees them: forked on demand by the nursery, one for each video."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from inference_server.video import wire
from inference_server.video.channel import Channel

# A decoder inherits nothing else, credentials in the environment least of all.
_ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSAFEPATH",
    "VIRTUAL_ENV",
    "LANG",
    "TMPDIR",
)

# A killed process is gone in milliseconds; one that the kernel keeps for longer is left to it.
_EXIT_SECONDS = 5


class DecoderProcess:
    """One process, which may still be on its way: its sockets work from the start.

    `exited` has the exit code, negative for a signal, or the reason why there was no process.
    """

    def __init__(self, control: socket.socket, data: socket.socket, kill: Callable[[], None]) -> None:
        data.settimeout(0)
        self.control = control
        self._data = data
        self.kill = kill
        self.exited: asyncio.Future[int | str] = asyncio.get_running_loop().create_future()
        self._writing = asyncio.Lock()
        self._closed = False

    async def write(self, data: bytes) -> bool:
        """Send encoded bytes; returns once the kernel has them all, or False if there is nobody to take them."""
        async with self._writing:
            if self._closed:
                return False
            try:
                await asyncio.get_running_loop().sock_sendall(self._data, data)
            except (BrokenPipeError, ConnectionResetError):
                return False
            return True

    async def end_of_input(self) -> None:
        """Send nothing more."""
        async with self._writing:
            if not self._closed:
                self._data.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Kill it if need be, and wait until it is gone."""
        if not self.exited.done():
            self.kill()
        await asyncio.wait((self.exited,), timeout=_EXIT_SECONDS)
        # With its reader gone, a write that is still waiting ends.
        async with self._writing:
            self._closed = True
            self._data.close()


class Nursery:
    """The process that decoders are forked from. If it dies, its decoders die too, and the next fork starts another."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._children: dict[int, DecoderProcess] = {}
        self._last_id = 0

    @property
    def alive(self) -> int:
        """How many decoders there are."""
        return len(self._children)

    def fork(self) -> DecoderProcess:
        """Ask for a decoder. This waits for nothing: what is sent to the decoder meanwhile waits in its sockets."""
        channel = self._running()
        self._last_id += 1
        worker = self._last_id
        control, theirs = socket.socketpair()
        data, source = socket.socketpair()
        process = DecoderProcess(control, data, lambda: channel.send({"type": "kill", "id": worker}))
        self._children[worker] = process
        with theirs, source:
            channel.send({"type": "fork", "id": worker}, (theirs.fileno(), source.fileno()))
        return process

    def start(self) -> None:
        """Start the process ahead of the first fork."""
        self._running()

    async def close(self) -> None:
        """End the process and all decoders."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            await asyncio.to_thread(_reap, self._process)

    def _running(self) -> Channel:
        if self._channel is None or self._channel.closed:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = _spawn(theirs)
            self._channel = Channel(ours, self._on_message, self._on_close)
        return self._channel

    def _on_message(self, message: dict[str, Any]) -> None:
        process = self._children.pop(wire.integer(message, "id", 1, self._last_id), None)
        if process is None or process.exited.done():
            return
        if message.get("type") == "refused":
            process.exited.set_result(wire.text(message, "reason"))
        else:
            process.exited.set_result(wire.integer(message, "status", -128, 255))

    def _on_close(self, _reason: str) -> None:
        children, self._children = self._children, {}
        for process in children.values():
            if not process.exited.done():
                process.exited.set_result("the process that decoders are forked from is gone")


def describe(exit_status: int | str) -> str:
    """What became of a process, for a person."""
    if isinstance(exit_status, str):
        return exit_status
    if exit_status >= 0:
        return f"it ended with exit code {exit_status}"
    with suppress(ValueError):
        return f"it was killed by {signal.Signals(-exit_status).name}"
    return f"it was killed by signal {-exit_status}"


def _spawn(sock: socket.socket) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return subprocess.Popen(  # noqa: S603 - this interpreter, our own module
        [sys.executable, "-m", "inference_server.video.nursery", str(sock.fileno())],
        pass_fds=(sock.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # A math library that starts threads would make forking unsafe.
        env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        start_new_session=True,  # what a terminal sends to the server is the server's business
    )


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has lost its server; it ends at once unless something is very wrong."""
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
