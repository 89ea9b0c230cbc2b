"""Messages between the server, the nursery and the decoders: a four byte length, then one JSON object.

Whoever reads from a decoder reads from a process that a hostile video may have taken over, hence JSON and not pickle,
a limit on the length, and `integer`, `number`, `text` and `flag` to take fields out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024

Message = Mapping[str, Any]

# Made once: json.dumps would make an encoder for each message, and json.loads guess at each one's encoding.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class ProtocolError(Exception):
    """The other side sent something that no peer in its right mind sends."""


def pack(message: Message) -> bytes:
    body = _encode(message).encode()
    return len(body).to_bytes(4, "big") + body


class Unpacker:
    """Turns bytes, as they come, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that `data` completes. Raises ProtocolError for anything that is not a message."""
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of {size} bytes, expected at most {MAX_MESSAGE_BYTES}")
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield _parse(body)


def integer(message: Message, name: str, least: int, most: int) -> int:
    value = message.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ProtocolError(f"{name}: expected {least}..{most}, got {value!r}")
    return value


def number(message: Message, name: str) -> float:
    value = message.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ProtocolError(f"{name}: expected a number, got {value!r}")
    return float(value)


def text(message: Message, name: str) -> str:
    value = message.get(name)
    if type(value) is not str:
        raise ProtocolError(f"{name}: expected text, got {value!r}")
    return value


def flag(message: Message, name: str) -> bool:
    value = message.get(name)
    if type(value) is not bool:
        raise ProtocolError(f"{name}: expected true or false, got {value!r}")
    return value


def _parse(body: bytes) -> dict[str, Any]:
    try:
        message = _decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a JSON object, got {type(message).__name__}")
    return message
