"""Dialogues with an RTSP server, as far as it speaks: a recording of each encoding, in packets among the answers."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import av
import corpus
from rtsp_server import GOODBYE, fragments, interleaved, report, rtp, units

PAYLOAD, STEP = 500, 3600
_HUFFMAN = {"huffman": "default"}  # RFC 2435 sends no tables, since everybody knows these
JPEG = corpus.Recipe("mjpeg", "mjpeg", _HUFFMAN, None, "yuvj420p")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The answers to OPTIONS, DESCRIBE and SETUP; the answer to PLAY with all that follows it, piece by piece."""

    answers: Sequence[bytes]
    media: Sequence[bytes]


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PAYLOAD] for at in range(0, len(data), PAYLOAD)]


def _h264(picture: bytes) -> Iterator[bytes]:
    for unit in units(picture):
        yield from fragments(unit, PAYLOAD)


def _h265(picture: bytes) -> Iterator[bytes]:
    for unit in units(picture):
        if len(unit) <= PAYLOAD:
            yield unit
            continue
        parts = _pieces(unit[2:])
        for index, part in enumerate(parts):
            flags = (0x80 if index == 0 else 0) | (0x40 if index == len(parts) - 1 else 0) | unit[0] >> 1 & 63
            yield bytes((unit[0] & 0x81 | 49 << 1, unit[1], flags)) + part


def _vp8(picture: bytes) -> Iterator[bytes]:
    for index, part in enumerate(_pieces(picture)):
        yield (b"\0" if index else b"\x10") + part


def _jpeg(picture: bytes) -> Iterator[bytes]:
    tables, at = b"", 2
    while picture[at + 1] != 0xDA:  # segment by segment to the start of the scan
        length = int.from_bytes(picture[at + 2 : at + 4], "big")
        if picture[at + 1] == 0xDB:
            segment = picture[at + 4 : at + 2 + length]
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        at += 2 + length
    scan = picture[at + 2 + int.from_bytes(picture[at + 2 : at + 4], "big") :]
    size, offset = bytes(side // 8 for side in corpus.SIZE), 0
    for part in _pieces(scan):
        head = offset.to_bytes(4, "big") + b"\1\xff" + size
        yield head + (b"" if offset else struct.pack("!HH", 0, len(tables)) + tables) + part
        offset += len(part)


_ENCODINGS: Mapping[str, tuple[str, str, Callable[[bytes], Iterator[bytes]]]] = {
    "rtsp-h264": ("ts-h264", "H264", _h264),
    "rtsp-h265": ("ts-hevc", "H265", _h265),
    "rtsp-mpeg4": ("avi-mpeg4", "MP4V-ES", lambda picture: iter(_pieces(picture))),
    "rtsp-vp8": ("webm-vp8", "VP8", _vp8),
    "rtsp-jpeg": ("", "JPEG", _jpeg),
}


def dialogues(videos: Mapping[str, bytes]) -> dict[str, Dialogue]:
    """By name, those whose encoder this FFmpeg has."""
    files = {"": corpus.encode(JPEG), **videos}
    return {
        name: _dialogue(files[file], encoding, packets)
        for name, (file, encoding, packets) in _ENCODINGS.items()
        if file in files
    }


def _dialogue(file: bytes, encoding: str, payloads: Callable[[bytes], Iterator[bytes]]) -> Dialogue:
    media, sequence = [interleaved(1, report(1_700_000_000, 0))], 0
    for picture, timestamp in _pictures(file):
        parts = [*payloads(picture)]
        for at, part in enumerate(parts, 1):
            packet = rtp(part, sequence, timestamp, marker=at == len(parts))
            media.append(interleaved(0, packet))
            sequence += 1
    played = _answer(4, "Session: 77aa;timeout=60", "RTP-Info: url=track1;seq=0;rtptime=0")
    return Dialogue(_answers(encoding, file), (played, *media, interleaved(1, GOODBYE)))


def _pictures(file: bytes) -> list[tuple[bytes, int]]:
    """Encoded pictures in the order of decoding, and the times at which they are seen."""
    with av.open(io.BytesIO(file)) as container:
        packets: list[Any] = [packet for packet in container.demux(video=0) if packet.size]
    steps = [packet.pts * packet.time_base * 25 for packet in packets if packet.pts is not None]
    known = len(steps) == len(packets)
    return [
        (bytes(packet), round(steps[index] - min(steps)) * STEP if known else index * STEP)
        for index, packet in enumerate(packets)
    ]


def _answers(encoding: str, file: bytes) -> tuple[bytes, ...]:
    sets = ",".join(base64.b64encode(unit).decode() for unit in _parameter_sets(encoding, file))
    parameters = f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\n" if sets else ""
    width, height = corpus.SIZE
    description = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=a recording\r\nt=0 0\r\na=control:*\r\na=range:npt=0-0.32\r\n"
        "m=audio 0 RTP/AVP 0\r\na=control:track0\r\nm=video 0 RTP/AVP 96\r\na=control:track1\r\n"
        f"a=rtpmap:96 {encoding}/90000\r\n{parameters}a=framerate:25\r\na=x-dimensions:{width},{height}\r\n"
    )
    return (
        _answer(1, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"),
        _answer(2, "Content-Type: application/sdp", "Content-Base: track/", body=description),
        _answer(3, "Session: 77aa;timeout=60", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=00001234"),
    )


def _parameter_sets(encoding: str, file: bytes) -> list[bytes]:
    if encoding != "H264":
        return []
    return [unit for unit in units(_pictures(file)[0][0]) if unit[0] & 31 in (7, 8)]


def _answer(sequence: int, *headers: str, body: str = "") -> bytes:
    length = (f"Content-Length: {len(body)}",) if body else ()
    return "\r\n".join(("RTSP/1.0 200 OK", f"CSeq: {sequence}", *headers, *length, "", body)).encode()
