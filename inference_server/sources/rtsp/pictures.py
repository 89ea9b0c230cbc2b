"""Pictures out of RTP payloads: H.264 (RFC 6184), H.265 (RFC 7798), MPEG-4 (RFC 6416) and VP8 (RFC 7741); JPEG apart.

Each assembler takes the payloads of one picture in their order and gives the picture. It may raise IndexError for what
is malformed; then that payload counts as lost.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Protocol

from inference_server.sources.rtsp.sdp import Media

_START_CODE = b"\0\0\0\1"


class Assembler(Protocol):
    """Makes pictures of payloads. `codec`: as Matroska calls it."""

    codec: str

    def add(self, payload: bytes) -> None:
        """Take the next payload of the picture."""

    def lose(self) -> None:
        """A payload before the next one is missing."""

    def take(self) -> tuple[bytes, bool] | None:
        """The picture whose last payload was added, and whether decoding can begin with it; None: there is none."""


class _Units:
    """What H.264 and H.265 have in common: units that travel alone, several together, or in fragments."""

    codec: str
    sets: list[bytes]

    def __init__(self) -> None:
        self._units: list[bytes] = []
        self._fragment: bytearray | None = None

    def lose(self) -> None:
        self._fragment = None

    def take(self) -> tuple[bytes, bool] | None:
        """Units that belong to a picture but came under a marker of their own wait for the picture."""
        self._fragment = None
        if not any(self.coded(unit) for unit in self._units):
            return None
        units, self._units = self._units, []
        key = any(self.key(unit) for unit in units)
        if key and not any(self.parameters(unit) for unit in units):
            units = [*self.sets, *units]
        return b"".join(_START_CODE + unit for unit in units), key

    def _together(self, data: bytes) -> None:
        while len(data) > 2:
            end = 2 + int.from_bytes(data[:2], "big")
            self._whole(data[2:end])
            data = data[end:]

    def _whole(self, unit: bytes) -> None:
        if unit:
            self._units.append(unit)

    def _part(self, header: bytes, flags: int, data: bytes) -> None:
        if flags & 0x80:
            self._fragment = bytearray(header)
        if self._fragment is not None:
            self._fragment += data
            if flags & 0x40:
                self._whole(bytes(self._fragment))
                self._fragment = None

    def coded(self, unit: bytes) -> bool:
        """Whether it has pixels."""
        raise NotImplementedError

    def key(self, unit: bytes) -> bool:
        """Whether decoding may begin with its picture."""
        raise NotImplementedError

    def parameters(self, unit: bytes) -> bool:
        """Whether it tells about the pictures to come."""
        raise NotImplementedError


class H264(_Units):
    codec = "V_MPEG4/ISO/AVC"

    def __init__(self, media: Media) -> None:
        super().__init__()
        self.sets = [*_decoded(media.parameters.get("sprop-parameter-sets", ""))]

    def add(self, payload: bytes) -> None:
        match payload[0] & 31:
            case 24:
                self._together(payload[1:])
            case 28:
                header = bytes((payload[0] & 0xE0 | payload[1] & 31,))
                self._part(header, payload[1], payload[2:])
            case kind if 1 <= kind <= 23:
                self._whole(payload)

    def coded(self, unit: bytes) -> bool:
        return 1 <= unit[0] & 31 <= 5

    def key(self, unit: bytes) -> bool:
        # Streams without whole key pictures mark where one may begin: parameter sets, or the note "recovery point".
        return unit[0] & 31 in (5, 7) or (unit[0] & 31 == 6 and unit[1:2] == b"\6")

    def parameters(self, unit: bytes) -> bool:
        return unit[0] & 31 == 7


class H265(_Units):
    codec = "V_MPEGH/ISO/HEVC"

    def __init__(self, media: Media) -> None:
        super().__init__()
        named = (media.parameters.get(f"sprop-{name}", "") for name in ("vps", "sps", "pps"))
        self.sets = [unit for text in named for unit in _decoded(text)]

    def add(self, payload: bytes) -> None:
        match payload[0] >> 1 & 63:
            case 48:
                self._together(payload[2:])
            case 49:
                header = bytes((payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]))
                self._part(header, payload[2], payload[3:])
            case kind if kind < 48:
                self._whole(payload)

    def coded(self, unit: bytes) -> bool:
        return unit[0] >> 1 & 63 < 32

    def key(self, unit: bytes) -> bool:
        return unit[0] >> 1 & 63 in (*range(16, 22), 33)

    def parameters(self, unit: bytes) -> bool:
        return unit[0] >> 1 & 63 == 33


class Plain:
    """A picture is its payloads, one after the other; with one of them missing there is no picture."""

    codec: str

    def __init__(self) -> None:
        self._data = bytearray()
        self._lost = False

    def lose(self) -> None:
        self._lost = True

    def take(self) -> tuple[bytes, bool] | None:
        data, lost = bytes(self._data), self._lost
        self._data.clear()
        self._lost = False
        return None if lost or not data else self._finished(data)

    def _finished(self, data: bytes) -> tuple[bytes, bool]:
        raise NotImplementedError


class Mpeg4(Plain):
    codec = "V_MPEG4/ISO/ASP"

    def __init__(self, media: Media) -> None:
        super().__init__()
        try:
            self._config = bytes.fromhex(media.parameters.get("config", ""))
        except ValueError:
            self._config = b""

    def add(self, payload: bytes) -> None:
        self._data += payload

    def _finished(self, data: bytes) -> tuple[bytes, bool]:
        at = data.find(b"\0\0\1\xb6")
        key = 0 <= at < len(data) - 4 and data[at + 4] >> 6 == 0
        return (self._config + data if key and not data.startswith(b"\0\0\1\xb0") else data), key


class Vp8(Plain):
    codec = "V_VP8"

    def __init__(self, _: Media) -> None:
        super().__init__()

    def add(self, payload: bytes) -> None:
        first, at = payload[0], 1
        if first & 0x80:
            fields, at = payload[1], 2
            if fields & 0x80:
                at += 2 if payload[at] & 0x80 else 1
            at += bool(fields & 0x40) + bool(fields & 0x30)
        self._data += payload[at:]

    def _finished(self, data: bytes) -> tuple[bytes, bool]:
        return data, data[0] & 1 == 0


def _decoded(sets: str) -> Iterator[bytes]:
    for text in sets.split(","):
        try:
            unit = base64.b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            continue
        if unit:
            yield unit
