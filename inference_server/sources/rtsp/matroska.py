"""A Matroska stream of one track, so that the decoder learns the time of each picture.

Pictures of H.264 and H.265 keep the start codes and parameter sets that they have on the wire: FFmpeg reads these, and
a camera may change them in the middle. Times are in microseconds.
"""

from __future__ import annotations

_UNKNOWN = b"\x01" + 7 * b"\xff"
_MICROSECOND = 1000  # in nanoseconds
_KEY = 0x80


def _size(length: int) -> bytes:
    return (length | 1 << 56).to_bytes(8, "big")


def _element(name: str, content: bytes | int | str) -> bytes:
    if isinstance(content, int):
        content = content.to_bytes(8, "big")
    elif isinstance(content, str):
        content = content.encode()
    return bytes.fromhex(name) + _size(len(content)) + content


def header(codec: str, size: tuple[int, int] = (0, 0), frame_rate: float = 0.0) -> bytes:
    """The beginning of a stream; `codec` as Matroska calls it, width, height and rate if they are known."""
    ebml = _element("4286", 1) + _element("42f7", 1) + _element("42f2", 4) + _element("42f3", 8)
    ebml += _element("4282", "matroska") + _element("4287", 4) + _element("4285", 2)
    info = _element("2ad7b1", _MICROSECOND) + _element("4d80", "videoai") + _element("5741", "videoai")
    picture = _element("b0", size[0]) + _element("ba", size[1]) if all(size) else b""
    track = _element("d7", 1) + _element("73c5", 1) + _element("83", 1) + _element("9c", 0)
    track += _element("86", codec) + _element("e0", picture)
    if frame_rate:  # without it FFmpeg looks at twenty pictures before it gives the first
        track += _element("23e383", round(1e9 / frame_rate))
    segment = _element("1549a966", info) + _element("1654ae6b", _element("ae", track))
    return _element("1a45dfa3", ebml) + bytes.fromhex("18538067") + _UNKNOWN + segment


def block(data: bytes, microseconds: int, *, key: bool) -> bytes:
    """One picture, at a time of 0 or more."""
    simple = _element("a3", bytes((0x81, 0, 0, _KEY if key else 0)) + data)
    return _element("1f43b675", _element("e7", microseconds) + simple)
