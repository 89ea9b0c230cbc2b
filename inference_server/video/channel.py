"""Messages over a Unix socket, in the server's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from inference_server.video import wire


class Channel:
    """Calls `on_message` for each message, and `on_close` once, with the reason, when no more can come.

    A message that is malformed, or that `on_message` refuses with ProtocolError, closes the channel.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[dict[str, Any]], None], on_close: Callable[[str], None]
    ) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._unpacker = wire.Unpacker()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._receive)
        self.closed = False

    def send(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        """Send at once. A peer that does not read its messages is as good as gone: the channel is closed."""
        if self.closed:
            return
        data = wire.pack(message)
        try:
            sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has gone; what it said last is still to be read, and closes the channel when it ends
        except OSError as error:
            self.close(f"it takes no messages ({error.strerror or error})")
            return
        if sent < len(data):
            self.close("it does not read its messages")

    def close(self, reason: str = "") -> None:
        """Stop; only the first call counts."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._on_close(reason)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(wire.MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for message in self._unpacker.feed(data):
                if not self.closed:
                    self._on_message(message)
        except wire.ProtocolError as error:
            self.close(f"it sent what it must not: {error}")
