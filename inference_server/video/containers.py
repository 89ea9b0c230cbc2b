"""Which containers and codecs are taken, told from the first bytes.

The demuxer is pinned to what the bytes say, so that FFmpeg never gets to guess: playlists, scripts and the many rarely
used demuxers are out of reach.
"""

from __future__ import annotations

from collections.abc import Callable

from inference_server.errors import UnsupportedVideo

ACCEPTED = "MP4/MOV, Matroska/WebM, MPEG-TS, AVI, FLV, IVF, Motion JPEG and raw (Annex B) H.264 and HEVC"
CODECS = frozenset(
    {
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"),
        *("h263", "flv1", "prores", "dnxhd", "ffv1", "vc1"),
    }
)
# Full names of the demuxers that go by several.
FULL_NAMES = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}
# Two packets of the longer kind of transport stream.
SNIFF_BYTES = 2 * 192 + 5

_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"sidx", b"pnot"}
_H264_HEADERS = {0x06, 0x09, 0x27, 0x47, 0x67}  # SEI, delimiter, parameter sets of each priority
_HEVC_HEADERS = {0x40, 0x42, 0x44, 0x46, 0x4E}  # parameter sets, delimiter, SEI


def recognise(head: bytes) -> str:
    """The FFmpeg demuxer for a video that begins with `head`, at least SNIFF_BYTES of it if it is that long.

    Raises UnsupportedVideo naming what is accepted.
    """
    for demuxer, matches in _SIGNATURES:
        if matches(head):
            return demuxer
    raise UnsupportedVideo(f"container: expected {ACCEPTED}, got {_describe(head)}")


def index_end(head: bytes | bytearray) -> int | None:
    """Where the index of an MP4 or MOV that begins with `head` ends; 0: pictures come first, None: more must tell."""
    position = 0
    while position + 16 <= len(head):
        size, kind = int.from_bytes(head[position : position + 4], "big"), head[position + 4 : position + 8]
        if size == 1:
            size = int.from_bytes(head[position + 8 : position + 16], "big")
        if kind == b"mdat" or size < 8:  # less than 8: to the end of the file, or nonsense
            return 0
        position += size
        if kind in (b"moov", b"moof"):
            return position
    return None


def cut_short(demuxer: str, head: bytes, size: int) -> bool:
    """Whether an input of `size` bytes that begins with `head` is shorter than its container says it is."""
    if demuxer == "avi":
        return size < 8 + int.from_bytes(head[4:8], "little")
    if demuxer == "matroska":
        return size < _matroska_size(head)
    if demuxer == "mpegts":
        return size % (188 if head[0] == 0x47 else 192) != 0
    return False


def _matroska_size(head: bytes) -> int:
    """Size of the file by its first two elements, the header and the segment; 0 if it was unknown when written."""
    header_size, at = _ebml_size(head, 4)
    segment = at + header_size
    segment_size, content = _ebml_size(head, segment + 4)
    if head[segment : segment + 4] != b"\x18\x53\x80\x67" or segment_size == (1 << 7 * (content - segment - 4)) - 1:
        return 0
    return content + segment_size


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """A number whose leading zero bits tell its length, and the position after it."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    number = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return number, at + length


def _transport_stream(head: bytes) -> bool:
    return any(
        len(head) > offset and all(head[at] == 0x47 for at in range(offset, len(head), size))
        for offset, size in ((0, 188), (4, 192))
    )


def _raw(head: bytes, headers: set[int]) -> bool:
    start = 4 if head.startswith(b"\0\0\0\1") else 3
    return head.startswith((b"\0\0\1", b"\0\0\0\1")) and len(head) > start and head[start] in headers


def _describe(head: bytes) -> str:
    if not head:
        return "an empty input"
    return f"one that begins with {head[:16]!r}"


_SIGNATURES: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("mov", lambda head: head[4:8] in _MOV_BOXES),
    ("matroska", lambda head: head.startswith(b"\x1a\x45\xdf\xa3")),
    ("avi", lambda head: head.startswith(b"RIFF") and head[8:12] == b"AVI "),
    ("flv", lambda head: head.startswith(b"FLV\x01")),
    ("ivf", lambda head: head.startswith(b"DKIF")),
    ("mjpeg", lambda head: head.startswith(b"\xff\xd8\xff")),
    ("h264", lambda head: _raw(head, _H264_HEADERS)),
    ("hevc", lambda head: _raw(head, _HEVC_HEADERS)),
    ("mpegts", _transport_stream),
)
