"""Cameras that send pictures as parts of one response: what lies around the pictures is taken off."""

from __future__ import annotations

import re
from collections.abc import Iterator

from inference_server.sources.source import SourceLost

_MOST_HEADERS = 8192
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,10})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_BOUNDARY = re.compile(r'boundary="?([^";, ]{1,70})', re.IGNORECASE)


def boundary(content_type: str) -> bytes | None:
    """What separates the parts, if there are parts."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/x-mixed-replace") or found is None:
        return None
    return b"\r\n--" + found[1].encode().removeprefix(b"--")


class Parts:
    """The bodies of the parts, one after the other, as they come in pieces."""

    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._waiting = bytearray()
        self._left: int | None = None  # bytes of this part still to come; None: its headers are
        self._endless = False  # a part that states no length goes on to the next separator

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` adds. Raises SourceLost for headers without an end."""
        self._waiting += data
        while self._waiting:
            piece = self._body() if self._left is not None or self._endless else self._headers()
            if piece is None:
                return
            if piece:
                yield piece

    def _headers(self) -> bytes | None:
        end = self._waiting.find(b"\r\n\r\n")
        if end < 0:
            if len(self._waiting) > _MOST_HEADERS:
                raise SourceLost("a part of the response has headers without an end")
            return None
        length = _LENGTH.search(self._waiting, 0, end)
        self._left, self._endless = (int(length[1]), False) if length else (None, True)
        del self._waiting[: end + 4]  # what is left is not copied: there may be thousands of small parts
        return b""

    def _body(self) -> bytes | None:
        if self._left is not None:
            piece = bytes(self._waiting[: self._left])
            del self._waiting[: len(piece)]
            self._left = self._left - len(piece) or None
            return piece
        at = self._waiting.find(self._separator)
        end = at if at >= 0 else len(self._waiting) - len(self._separator) + 1
        if end <= 0 and at < 0:
            return None
        piece = bytes(self._waiting[:end])
        del self._waiting[:end]
        self._endless = at < 0
        return piece
