"""A decoder's two lines to the server: messages both ways, and encoded bytes in."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from threading import Lock
from typing import Any

from inference_server.video import wire

Handler = Callable[[dict[str, Any]], None]


class Link:
    """While it waits, for whatever it is, it hands the messages that come in to `on_message`.

    When the server goes away, so does this process, wherever it is. Any thread may send, one may do the rest.
    """

    on_message: Handler

    def __init__(self, control: socket.socket, data: socket.socket) -> None:
        self._control = control
        self._data = data
        self._sending = Lock()
        self._unpacker = wire.Unpacker()
        self._fds: list[int] = []
        self._idle = select.poll()
        self._idle.register(control, select.POLLIN)
        self._reading = select.poll()
        self._reading.register(control, select.POLLIN)
        self._reading.register(data, select.POLLIN)

    def send(self, **message: Any) -> None:
        """Send one message; the server always takes it."""
        data = wire.pack(message)
        try:
            with self._sending:
                self._control.sendall(data)
        except OSError:
            os._exit(0)

    def serve(self, *, wait: bool) -> None:
        """Handle the messages that are there; with `wait`, at least one."""
        if self._idle.poll(None if wait else 0):
            self._receive()

    def read(self, size: int) -> bytes:
        """Return 1 to `size` encoded bytes as soon as there are any; nothing at the end of the input."""
        while True:
            ready = {fd for fd, _ in self._reading.poll()}
            if self._control.fileno() in ready:
                self._receive()
            if self._data.fileno() in ready:
                return self._data.recv(size)

    def readable(self, seconds: float) -> bool:
        """Whether `read` would return at once, now or within `seconds` of silence on both lines."""
        while ready := {fd for fd, _ in self._reading.poll(1000 * seconds)}:
            if self._control.fileno() in ready:
                self._receive()
            if self._data.fileno() in ready:
                return True
        return False

    def take_fd(self) -> int:
        """The descriptor that came with the message being handled."""
        return self._fds.pop(0)

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, wire.MAX_MESSAGE_BYTES, 8)
        except OSError:
            os._exit(0)
        if not data:
            os._exit(0)
        self._fds += fds
        for message in self._unpacker.feed(data):
            if message["type"] == "ping":
                self.send(type="pong")
            else:
                self.on_message(message)
