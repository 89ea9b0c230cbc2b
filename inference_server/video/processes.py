"""Decoder processes as the server sees them: forked on demand by the nursery, one for each video."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from inference_server import children
from inference_server.video import wire
from inference_server.video.channel import Channel

_command = partial(children.command, "inference_server.video.nursery")
# A killed process is gone in milliseconds; one that the kernel keeps for longer is left to it.
_EXIT_SECONDS = 5
# A nursery answers within milliseconds. Continuing one that was not stopped does nothing.
_CONTINUE_SECONDS = 0.5
_START_SECONDS = 60
_ATTEMPTS = 2


class DecoderProcess:
    """One process, which may still be on its way: its sockets work from the start.

    `forked` is set when it runs, or never will. `exited` has the exit code, negative for a signal, or the reason why
    there was no process.
    """

    def __init__(self, control: socket.socket, data: socket.socket, kill: Callable[[], None]) -> None:
        data.settimeout(0)
        self.control = control
        self._data = data
        self.kill = kill
        self.forked = asyncio.Event()
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


@dataclass(slots=True)
class _Order:
    """A decoder that was asked for: its ends of the sockets, kept until a nursery has taken them."""

    sockets: tuple[socket.socket, socket.socket]
    attempts: int = 0

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class Nursery:
    """The process that decoders are forked from, started ahead of need.

    If it dies its decoders do too, and another takes its place at once. One that does not answer is continued, in case
    somebody stopped it, and killed after `timeout_seconds` more. Decoders that were asked for meanwhile come from the
    next. `on_ready` is told which layers of the sandbox decoders are in, of each process anew.
    """

    def __init__(self, timeout_seconds: float, on_ready: Callable[[Collection[str]], None]) -> None:
        self._timeout_seconds = timeout_seconds
        self._on_ready = on_ready
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._closing = False
        self._orders: dict[int, _Order] = {}
        self._children: dict[int, DecoderProcess] = {}
        self._last_id = 0
        self._heard = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    def fork(self) -> DecoderProcess:
        """Ask for a decoder. This waits for nothing: what is sent to the decoder meanwhile waits in its sockets."""
        self._last_id += 1
        worker = self._last_id
        control, theirs = socket.socketpair()
        data, source = socket.socketpair()
        process = DecoderProcess(control, data, partial(self._kill, worker))
        self._children[worker] = process
        self._orders[worker] = _Order((theirs, source))
        if self._channel is None:
            self.start()
        else:
            self._order(worker)
        return process

    def start(self) -> None:
        """Start the process ahead of the first fork, and give it what was asked for before."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn(theirs)
        self._ready = False
        self._channel = Channel(ours, self._on_message, self._on_close)
        for worker in [*self._orders]:
            self._order(worker)

    async def close(self) -> None:
        """End the process and all decoders."""
        self._closing = True
        if self._channel is not None:
            self._channel.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._process is not None:
            await asyncio.to_thread(_reap, self._process)

    def _order(self, worker: int) -> None:
        order = self._orders[worker]
        if order.attempts == _ATTEMPTS:
            self._ended(worker, "the process that decoders are forked from does not start")
            return
        order.attempts += 1
        self._send({"type": "fork", "id": worker}, [sock.fileno() for sock in order.sockets])

    def _kill(self, worker: int) -> None:
        self._delivered(worker)  # nobody needs it any more
        if worker in self._children:
            self._send({"type": "kill", "id": worker})

    def _send(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        """Send a message, and see to it that there is somebody who reads it."""
        if self._channel is not None:
            self._channel.send(message, fds)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Ask whether the process is there, until it has taken all orders; replace one that does not answer."""
        while (channel := self._channel) is not None:
            patience = min(_CONTINUE_SECONDS, self._timeout_seconds) if self._ready else _START_SECONDS
            if not await self._answers(channel, patience):
                if self._process is not None:
                    self._process.send_signal(signal.SIGCONT)
                if not await self._answers(channel, self._timeout_seconds):
                    channel.close("it does not answer")
            elif not self._orders:
                return

    async def _answers(self, channel: Channel, seconds: float) -> bool:
        self._heard.clear()
        channel.send({"type": "ping"})
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        # Not whether the wait timed out: a busy event loop may see the answer and the end of the time at once.
        return self._heard.is_set() or channel.closed

    def _on_message(self, message: dict[str, Any]) -> None:
        self._heard.set()
        match message.get("type"):
            case "ready":
                self._ready = True
                self._on_ready([str(layer) for layer in message["layers"]])
            case "forked":
                worker = wire.integer(message, "id", 1, self._last_id)
                self._delivered(worker)
                if worker in self._children:
                    self._children[worker].forked.set()
            case "refused":
                self._ended(wire.integer(message, "id", 1, self._last_id), wire.text(message, "reason"))
            case "exited":
                worker = wire.integer(message, "id", 1, self._last_id)
                self._ended(worker, wire.integer(message, "status", -128, 255))

    def _on_close(self, _reason: str) -> None:
        self._channel = None
        self._heard.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for worker in [*self._children]:
            if worker not in self._orders or self._closing:
                self._ended(worker, "the process that decoders are forked from is gone")
        # One that never came up is tried again when somebody needs it, not for ever.
        if not self._closing and (self._ready or self._orders):
            self.start()

    def _delivered(self, worker: int) -> None:
        if order := self._orders.pop(worker, None):
            order.close()

    def _ended(self, worker: int, status: int | str) -> None:
        self._delivered(worker)
        process = self._children.pop(worker, None)
        if process is not None and not process.exited.done():
            process.forked.set()
            process.exited.set_result(status)


def describe(exit_status: int | str) -> str:
    """What became of a process, for a person."""
    if isinstance(exit_status, str):
        return exit_status
    if exit_status >= 0:
        return f"it ended with exit code {exit_status}"
    if exit_status == -signal.SIGSYS:
        return "it was killed by SIGSYS, for a system call that no decoder makes"
    with suppress(ValueError):
        return f"it was killed by {signal.Signals(-exit_status).name}"
    return f"it was killed by signal {-exit_status}"


def _spawn(sock: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter, our own module
        _command(sock.fileno(), os.getpid()),
        pass_fds=(sock.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=children.environment(),
        start_new_session=True,  # what a terminal sends to the server is the server's business
    )


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has lost its server; it ends at once unless something is very wrong."""
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
