"""Videos that somebody sends to have other files read, other hosts called, or memory and time taken."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np

REFUSED = grpc.StatusCode.INVALID_ARGUMENT
LIMITED = grpc.StatusCode.RESOURCE_EXHAUSTED
# What the server that they are sent to allows.
LIMITS = {
    "max-pixels": 1_000_000,
    "max-tracks": 64,
    "max-video-frames": 500,
    "max-video-seconds": 3600,
    "max-video-bytes": 6_000_000,
    "max-spool-bytes": 3_000_000,
    "max-frame-cpu-seconds": 3,
}


@dataclass(frozen=True)
class Hostile:
    """`content`, given a URL that must never be asked for; what is to be answered: a status and words, or frames."""

    content: Callable[[str], Iterable[bytes]]
    code: grpc.StatusCode | None
    reason: str = ""
    frames: int = 0


def encode(
    container: str, codec: str, pictures: Iterable[Any], *, rate: int = 25, tracks: int = 1, **fields: Any
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:  # an index can only be put in front of a file that has a name
        path = Path(folder) / "video"
        _encode(path, container, codec, pictures, rate, tracks, fields)
        return path.read_bytes()


def _encode(
    path: Path, container: str, codec: str, pictures: Iterable[Any], rate: int, tracks: int, fields: Any
) -> None:
    with av.open(str(path), "w", format=container, **fields) as output:
        first, *others = list(pictures)
        streams: list[Any] = [output.add_stream(codec, rate=rate) for _ in range(tracks)]
        for stream in streams:
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.thread_count = 1
        for index, pixels in enumerate((first, *others)):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts, frame.time_base = index, Fraction(1, rate)
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))


def flat(width: int, height: int, count: int = 1) -> list[Any]:
    return [np.full((height, width, 3), 90, np.uint8)] * count


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return (len(body) + 8).to_bytes(4, "big") + kind + body


def element(kind: str, *content: bytes) -> bytes:
    """A piece of Matroska: its id, its length in eight bytes, its content."""
    body = b"".join(content)
    return bytes.fromhex(kind) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def patched(data: bytes, mark: bytes, at: int, new: bytes) -> bytes:
    """`data` with `new` in it, `at` bytes behind the end of `mark`."""
    position = data.index(mark) + len(mark) + at
    return data[:position] + new + data[position + len(new) :]


def matroska(*content: bytes) -> bytes:
    head = element("1A45DFA3", element("4282", b"matroska"), element("4287", b"\4"), element("4285", b"\2"))
    return head + element("18538067", *content)


def tracks(count: int) -> bytes:
    """So many tracks of VP8, and a block that is no picture."""
    size = element("E0", element("B0", b"\0\x40"), element("BA", b"\0\x40"))
    entries = []
    for number in range(1, count + 1):
        ids = element("D7", number.to_bytes(2, "big")), element("73C5", number.to_bytes(2, "big"))
        entries.append(element("AE", *ids, element("83", b"\1"), element("86", b"V_VP8"), size))
    block = element("1F43B675", element("E7", b"\0"), element("A3", b"\x81\0\0\x80", bytes(16)))
    return element("1654AE6B", *entries) + block


def tags(count: int) -> bytes:
    values = (element("67C8", element("45A3", b"T%d" % number), element("4487", b"x")) for number in range(count))
    return element("1254C367", *(element("7373", value) for value in values))


def nested(depth: int) -> bytes:
    """Boxes in boxes, the innermost empty."""
    return b"".join((8 * level).to_bytes(4, "big") + b"moov" for level in range(depth, 0, -1))


SMALL = encode("mp4", "libx264", flat(64, 48, 3), options={"movflags": "faststart"})
SMALL_TS = encode("mpegts", "libx264", flat(64, 48, 25))


def elsewhere(url: str) -> bytes:
    """A QuickTime movie that says of its pictures, which it has, that they lie at `url`."""
    data = encode("mov", "libx264", flat(64, 48, 3), options={"movflags": "faststart"})
    here, there = box(b"url ", b"\0\0\0\1"), box(b"url ", b"\0\0\0\0", url.encode() + b"\0")
    position = data.index(here, data.index(b"dref"))
    grown = data[:position] + there + data[position + len(here) :]
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref", b"stco"):
        # The boxes around it grow; the only chunk of pictures lies that much further back.
        at = grown.rindex(name, 0, position) - 4 if name != b"stco" else grown.index(name) + 12
        number = int.from_bytes(grown[at : at + 4], "big") + len(there) - len(here)
        grown = grown[:at] + number.to_bytes(4, "big") + grown[at + 4 :]
    return grown


def once(data: bytes | Callable[[str], bytes]) -> Callable[[str], Iterator[bytes]]:
    def content(url: str) -> Iterator[bytes]:
        whole = data(url) if callable(data) else data
        return (whole[start : start + 65536] for start in range(0, len(whole), 65536))

    return content


def endless(_: str) -> Iterator[bytes]:
    return itertools.repeat(SMALL_TS)


def text(template: str) -> Callable[[str], Iterator[bytes]]:
    return once(lambda url: template.format(url=url).encode())


FRONT = {"options": {"movflags": "faststart"}}
JPEGS = encode("mjpeg", "mjpeg", flat(64, 48, 3))
FTYP = box(b"ftyp", b"isom", bytes(4))
ZEROS = bytes(65536)


def clock(mark: bytes, units: int, length: int) -> Callable[[str], Iterator[bytes]]:
    """An MP4 whose `mark` says so many units a second, and so many in all."""
    return once(patched(SMALL, mark, 12, units.to_bytes(4, "big") + length.to_bytes(4, "big")))


ELSEWHERE = {
    "playlist": Hostile(text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n"), REFUSED, "a playlist"),
    "nested playlist": Hostile(text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n" * 99), REFUSED, "a playlist"),
    "playlist with a key": Hostile(text('#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n'), REFUSED, "a playlist"),
    "ffconcat": Hostile(text("ffconcat version 1.0\nfile {url}\nfile /etc/passwd\n"), REFUSED, "ffconcat"),
    "manifest": Hostile(text('<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>'), REFUSED, "MPEG-DASH"),
    "session description": Hostile(text("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n"), REFUSED, "SDP"),
    "address": Hostile(text("{url}"), REFUSED, "an address"),
    "playlist behind a box": Hostile(
        once(lambda url: FTYP + f"#EXTM3U\n{url}\n".encode() * 50), REFUSED, "cannot be read"
    ),
    "movie that refers to another": Hostile(once(elsewhere), None, frames=3),
}
LARGE = {
    "JPEG that grows to 65500 x 65500": Hostile(
        once(JPEGS + patched(JPEGS, b"\xff\xc0", 3, b"\xff\xdc\xff\xdc")), LIMITED, "max_pixels", frames=3
    ),
    "H.264 of 2048 x 2048": Hostile(once(encode("h264", "libx264", flat(2048, 2048))), LIMITED, "max_pixels"),
    "H.264 that grows": Hostile(
        once(encode("h264", "libx264", flat(64, 48, 3)) + encode("h264", "libx264", flat(2048, 2048, 3))),
        LIMITED,
        "max_pixels",
        frames=3,
    ),
}
MANY = {
    "4,000 frames in 800 kB": Hostile(
        once(encode("mpegts", "libx264", flat(16, 16, 4000))), LIMITED, "max_video_frames"
    ),
    "MP4 that claims 2 billion frames": Hostile(
        once(patched(encode("mp4", "mjpeg", flat(64, 48, 3), **FRONT), b"stsz", 4, b"\0\0\1\0\x7f\xff\xff\xff")),
        REFUSED,
        "no picture",
    ),
    "endless": Hostile(endless, LIMITED, "max_video_"),
    "endless index": Hostile(
        lambda _: itertools.chain([b"\xff\xff\xff\xffmoov"], itertools.repeat(ZEROS)), LIMITED, "max_video_bytes"
    ),
    "endless, index last": Hostile(
        lambda _: itertools.chain([FTYP, bytes(4), b"mdat"], itertools.repeat(ZEROS)), LIMITED, "max_spool_bytes"
    ),
}
CLOCKS = {
    "MP4 of 136 years": Hostile(clock(b"mvhd", 1, 2**32 - 1), None, frames=3),
    "MP4 without a clock": Hostile(clock(b"mdhd", 0, 0), REFUSED, "no picture"),
    "MP4 with a slow clock": Hostile(clock(b"mdhd", 1, 2**31 - 1), REFUSED, "no picture"),
    "IVF with an absurd clock": Hostile(
        once(patched(encode("ivf", "libvpx", flat(64, 48, 3)), b"VP80", 4, b"\1\0\0\0\xff\xff\xff\xff")),
        LIMITED,
        "max_video_seconds",
    ),
}
BESIDE = {
    "3,000 tracks": Hostile(once(matroska(tracks(3000))), LIMITED, "max_tracks"),
    "100 tracks in MP4": Hostile(
        once(encode("mp4", "mpeg4", flat(32, 32), tracks=100, **FRONT)), LIMITED, "max_tracks"
    ),
    "99 tracks in AVI": Hostile(once(encode("avi", "mpeg4", flat(32, 32), tracks=99)), LIMITED, "max_tracks"),
    "title of 2 MB": Hostile(
        once(matroska(element("1549A966", element("7BA9", b"x" * 2_000_000)), tracks(1))), REFUSED, "no picture"
    ),
    "300 tags": Hostile(once(matroska(tags(300), tracks(1))), REFUSED, "no picture"),
    "2,000 tags": Hostile(once(matroska(tags(2000), tracks(1))), LIMITED, "max_frame_cpu_seconds"),
    "boxes in boxes": Hostile(once(nested(5000)), REFUSED, "cannot be read"),
}
HOSTILE = {**ELSEWHERE, **LARGE, **MANY, **CLOCKS, **BESIDE}
