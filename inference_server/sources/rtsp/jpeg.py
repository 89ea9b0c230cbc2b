"""JPEG over RTP (RFC 2435): the headers of a picture are not sent, but told in a few bytes."""

from __future__ import annotations

from inference_server.sources.rtsp.pictures import Plain
from inference_server.sources.rtsp.sdp import Media

# The example tables of the JPEG standard, in zigzag order: brightness, colour.
_TABLES = (
    bytes.fromhex(
        "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933"
        "383740485c4e404457453738506d51575f626768673e4d71797064785c656763"
    ),
    bytes.fromhex("1112121815182f1a1a2f63423842") + b"\x63" * 50,
)
_START, _END = b"\xff\xd8", b"\xff\xd9"


class Jpeg(Plain):
    """`size`: of the pictures as the description states it; needed where they are wider or higher than 2040."""

    codec = "V_MJPEG"

    def __init__(self, media: Media) -> None:
        super().__init__()
        self._stated = media.size
        self._head = b""
        self._told: dict[int, bytes] = {}  # tables that came with an earlier picture, by number

    def add(self, payload: bytes) -> None:
        offset, kind, quality = int.from_bytes(payload[1:4], "big"), payload[4], payload[5]
        size, at, interval = (payload[6] * 8, payload[7] * 8), 8, b""
        if kind & 0x40:
            interval, at = payload[8:10], 12
        if offset != len(self._data):
            self.lose()
        if not offset:
            tables, at = self._quantisation(quality, payload, at)
            if not tables:
                self.lose()
            self._head = _headers(kind & 0x3F, size if all(size) else self._stated, tables, interval)
        self._data += payload[at:]

    def _quantisation(self, quality: int, payload: bytes, at: int) -> tuple[bytes, int]:
        """Both tables, and where the picture goes on."""
        if quality < 128:
            return _scaled(quality), at
        start, length = at + 4, int.from_bytes(payload[at + 2 : at + 4], "big")
        if length:
            self._told[quality] = payload[start : start + length]
        return self._told.get(quality, b""), start + length

    def _finished(self, data: bytes) -> tuple[bytes, bool]:
        return self._head + data + (b"" if data.endswith(_END) else _END), True


def _scaled(quality: int) -> bytes:
    factor = min(max(quality, 1), 99)
    percent = 5000 // factor if factor < 50 else 200 - 2 * factor
    return bytes(min(max((value * percent + 50) // 100, 1), 255) for table in _TABLES for value in table)


def _headers(kind: int, size: tuple[int, int], tables: bytes, interval: bytes) -> bytes:
    """What comes before the data of a picture; the decoder knows the standard's Huffman tables by itself."""
    parts = [tables[at : at + 64] for at in range(0, len(tables), 64)]
    colour = min(1, len(parts) - 1) if parts else 0
    width, height = size
    components = bytes((1, 0x22 if kind & 1 else 0x21, 0, 2, 0x11, colour, 3, 0x11, colour))
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03" + components
    return b"".join((
        _START,
        *(_segment(0xDB, bytes((number,)) + part) for number, part in enumerate(parts[:2])),
        _segment(0xDD, interval) if interval else b"",
        _segment(0xC0, frame),
        _segment(0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"),
    ))  # fmt: skip


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content
