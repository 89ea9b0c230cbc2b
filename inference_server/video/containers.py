"""Which containers there are and which one a video is in, told from its first bytes.

The demuxer is pinned to what the bytes say, so that FFmpeg never gets to guess: playlists, scripts and the many rarely
used demuxers are out of reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from inference_server.errors import UnsupportedVideo

# Full names of the demuxers that go by several.
FULL_NAMES = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}
# Two packets of the longer kind of transport stream.
SNIFF_BYTES = 2 * 192 + 5

_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"sidx", b"pnot"}
_H264_HEADERS = {0x06, 0x09, 0x27, 0x47, 0x67}  # SEI, delimiter, parameter sets of each priority
_HEVC_HEADERS = {0x40, 0x42, 0x44, 0x46, 0x4E}  # parameter sets, delimiter, SEI


def recognise(head: bytes, allowed: Collection[str]) -> str:
    """The FFmpeg demuxer for a video that begins with `head`, at least SNIFF_BYTES of it if it is that long.

    `allowed`: names of CONTAINERS. Raises UnsupportedVideo saying what it is, if that is known, and what is accepted.
    """
    found = next((name for name, container in CONTAINERS.items() if container.matches(head)), None)
    if found and found in allowed:
        return CONTAINERS[found].demuxer
    got = f"{CONTAINERS[found].title}, which is not allowed here" if found else _describe(head)
    accepted = ", ".join(container.title for name, container in CONTAINERS.items() if name in allowed)
    raise UnsupportedVideo(f"container: expected {accepted}, got {got}")


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
    """What `head` begins with: by name where somebody may have meant it to be a video, or hoped that it is opened."""
    if not head:
        return "an empty input"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    named = next((what for pattern, what in _NAMED if re.match(pattern, text, re.IGNORECASE | re.DOTALL)), None)
    return f"{named}, which is no video by itself" if named else f"one that begins with {head[:16]!r}"


@dataclass(frozen=True, slots=True)
class Container:
    """How FFmpeg and how people call it, and whether a video that begins with these bytes is in it."""

    demuxer: str
    title: str
    matches: Callable[[bytes], bool]


# By the names that --allow-container takes.
CONTAINERS = {
    "mp4": Container("mov", "MP4/MOV", lambda head: head[4:8] in _MOV_BOXES),
    "matroska": Container("matroska", "Matroska/WebM", lambda head: head.startswith(b"\x1a\x45\xdf\xa3")),
    "mpegts": Container("mpegts", "MPEG-TS", _transport_stream),
    "avi": Container("avi", "AVI", lambda head: head.startswith(b"RIFF") and head[8:12] == b"AVI "),
    "flv": Container("flv", "FLV", lambda head: head.startswith(b"FLV\x01")),
    "ivf": Container("ivf", "IVF", lambda head: head.startswith(b"DKIF")),
    "mjpeg": Container("mjpeg", "Motion JPEG", lambda head: head.startswith(b"\xff\xd8\xff")),
    "h264": Container("h264", "raw H.264 (Annex B)", lambda head: _raw(head, _H264_HEADERS)),
    "hevc": Container("hevc", "raw HEVC (Annex B)", lambda head: _raw(head, _HEVC_HEADERS)),
    "mpegps": Container("mpeg", "MPEG program stream", lambda head: head.startswith(b"\0\0\1\xba")),
    "mpegvideo": Container("mpegvideo", "raw MPEG-1/2 video", lambda head: head.startswith(b"\0\0\1\xb3")),
    "ogg": Container("ogg", "Ogg", lambda head: head.startswith(b"OggS\0")),
    "asf": Container("asf", "ASF/WMV", lambda head: head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),
    "mxf": Container("mxf", "MXF", lambda head: head.startswith(b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02")),
    "obu": Container("obu", "raw AV1 (OBU)", lambda head: head.startswith(b"\x12\0\x0a")),
}
DEFAULT_CONTAINERS = ("mp4", "matroska", "mpegts", "avi", "flv", "ivf", "mjpeg", "h264", "hevc")

# What comes instead of a video, in place of a file that is one, or to have other files and hosts read.
_NAMED: tuple[tuple[bytes, str], ...] = (
    (rb"#EXTM3U", "a playlist (M3U, HLS)"),
    (rb"ffconcat version|file\s+\S", "a list of files to join (ffconcat)"),
    (rb"(<\?xml.*|<!--.*)?<(\w+:)?MPD\b", "a manifest (MPEG-DASH)"),
    (rb"(<\?xml.*|<!--.*)?<SmoothStreamingMedia\b", "a manifest (Smooth Streaming)"),
    (rb"<!DOCTYPE html|<html\b", "a web page (HTML)"),
    (rb"<\?xml|<\w+[\s>]", "XML"),
    (rb"v=0\r?\n", "a session description (SDP)"),
    (rb"\[playlist\]|\[Reference\]", "a playlist (PLS, ASX)"),
    (rb";FFMETADATA", "metadata (FFmpeg)"),
    (rb"([a-z][a-z0-9+.-]{1,20}:(//|/)|(concat|subfile|data|crypto|tcp|udp)[:,])[ -~]*\s*$", "an address"),
    (rb"RIFF....WAVE|ID3|fLaC|\xff[\xf1\xf9\xf3\xfb\xfa]", "sound"),
    (rb"\x89PNG|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP", "a picture"),
    (rb"%PDF-|PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "a document or an archive"),
)
