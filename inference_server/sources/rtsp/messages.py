"""What goes over an RTSP connection: requests and responses, and packets of media between them (RFC 2326)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MOST_HEAD = 16 * 1024
_MOST_BODY = 256 * 1024
_PACKET_MARK = ord("$")
_STATUS = re.compile(r"RTSP/\d\.\d (\d{3})(?: |$)")
_LENGTH = re.compile(r"[0-9]{1,10}")
_REQUEST = re.compile(r"[A-Z_]{1,32} \S+ RTSP/\d\.\d")


class Malformed(Exception):  # noqa: N818 - says what it is
    """The other side does not speak RTSP."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of media; `channel` says which stream, and whether it is RTP or RTCP."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A response, or a request of the server; header names are in lower case."""

    first_line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def status(self) -> int | None:
        """The status of a response; None if this is a request."""
        found = _STATUS.match(self.first_line)
        return int(found[1]) if found else None

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next(iter(self.all(name)), "")


class Incoming:
    """Takes apart what comes over the connection, however it is cut into pieces."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[Message | Packet]:
        """Yield what `data` completes. Raises Malformed."""
        self._waiting += data
        while (item := self._next()) is not None:
            yield item

    def _next(self) -> Message | Packet | None:
        while self._waiting.startswith((b"\r", b"\n")):
            del self._waiting[0]
        if not self._waiting:
            return None
        return self._packet() if self._waiting[0] == _PACKET_MARK else self._message()

    def _packet(self) -> Packet | None:
        waiting = self._waiting
        end = 4 + int.from_bytes(waiting[2:4], "big")
        if len(waiting) < 4 or len(waiting) < end:
            return None
        packet = Packet(waiting[1], bytes(waiting[4:end]))
        del waiting[:end]
        return packet

    def _message(self) -> Message | None:
        end = self._waiting.find(b"\r\n\r\n", 0, _MOST_HEAD)
        if end < 0:
            if len(self._waiting) >= _MOST_HEAD:
                raise Malformed("a head without an end")
            return None
        message = _parse(bytes(self._waiting[:end]))
        length = message.get("content-length") or "0"
        if not (_LENGTH.fullmatch(length) and int(length) <= _MOST_BODY):
            raise Malformed("a body that is too long")
        start, after = end + 4, end + 4 + int(length)
        if len(self._waiting) < after:
            return None
        body = bytes(self._waiting[start:after])
        del self._waiting[:after]
        return Message(message.first_line, message.headers, body)


def _parse(head: bytes) -> Message:
    first, *lines = head.decode("latin-1").split("\r\n")
    if not _STATUS.match(first) and not _REQUEST.fullmatch(first):
        raise Malformed("neither a request nor a response")
    pairs = (line.partition(":")[::2] for line in lines)
    return Message(first, tuple((name.strip().lower(), value.strip()) for name, value in pairs))


def encode(first_line: str, headers: dict[str, str]) -> bytes:
    """A message without a body."""
    return "\r\n".join([first_line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
