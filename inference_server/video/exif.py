"""How a camera was held, from the Exif data of a JPEG file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

_ORIENTATION = 0x0112


def segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the payload of each segment that comes before the pixels."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        size = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        yield marker, jpeg[at + 4 : at + 2 + size]
        if marker == 0xDA:
            return
        at += 2 + size


def orientation(jpeg: bytes) -> int:
    """The orientation 1..8 as Exif numbers them; 1, upright, if the file does not say."""
    for marker, payload in segments(jpeg):
        if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
            return _read(payload[6:])
    return 1


def _read(tiff: bytes) -> int:
    order: Literal["big", "little"] = "big" if tiff.startswith(b"MM") else "little"
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == _ORIENTATION:
            value = int.from_bytes(tiff[entry + 8 : entry + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1
