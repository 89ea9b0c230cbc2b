"""Pictures in a decoder process: decoded without a demuxer, by the decoder that their first bytes call for."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Literal

import av
import numpy as np
from av import VideoFrame
from av.video.codeccontext import VideoCodecContext

from inference_server.detection.geometry import Layout
from inference_server.errors import InvalidPicture, UnsupportedVideo, VideoError
from inference_server.video import exif, limits
from inference_server.video.link import Link
from inference_server.video.memory import FrameMemory
from inference_server.video.prepare import Pose, Preparer

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Markers that start a frame and carry its size; the others of C0..CF are tables.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# By Exif orientation.
_POSES = {
    1: Pose(),
    2: Pose(flip_x=True),
    3: Pose(flip_x=True, flip_y=True),
    4: Pose(flip_y=True),
    5: Pose(transpose=True),
    6: Pose(transpose=True, flip_x=True),
    7: Pose(transpose=True, flip_x=True, flip_y=True),
    8: Pose(transpose=True, flip_y=True),
}


def prepare_stills(
    link: Link, memory: FrameMemory, layout: Layout, pictures: list[dict[str, Any]], max_pixels: int, cpu_seconds: float
) -> None:
    """Prepare each picture in the slot of its position, each within `cpu_seconds` of the processor.

    Raises VideoError naming the one that is bad.
    """
    preparer = Preparer(max_pixels)
    for index, picture in enumerate(pictures):
        data = _read(link, picture["size"])
        limits.restart_clock(cpu_seconds)
        started = perf_counter()
        try:
            frame = _decode(data, picture, preparer)
            decoded = perf_counter()
            width, height = preparer.prepare(frame, _pose(data), layout, index, memory.view(index, layout))
        except VideoError as error:
            raise type(error)(f"frames[{index}]: {error}") from error
        seconds = {"decode_seconds": decoded - started, "prepare_seconds": perf_counter() - decoded}
        link.send(type="picture", width=width, height=height, **seconds)
    link.send(type="finished")


def _read(link: Link, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (more := link.read(min(size - len(data), 1024 * 1024))):
            raise InvalidPicture(f"expected {size} bytes, got {len(data)}")
        data += more
    return bytes(data)


def _decode(data: bytes, picture: dict[str, Any], preparer: Preparer) -> VideoFrame:
    if picture["width"]:
        preparer.check(picture["width"], picture["height"])
        pixels = np.frombuffer(data, np.uint8).reshape(picture["height"], picture["width"], 3)
        return VideoFrame.from_numpy_buffer(pixels, "rgb24")
    codec = _recognise(data)
    size = _png_size(data) if codec == "png" else _jpeg_size(data)
    if size is None:
        raise InvalidPicture(f"{codec}: its header is damaged")
    preparer.check(*size)
    try:
        context = VideoCodecContext.create(codec, "r")
        frames: list[VideoFrame] = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        raise InvalidPicture(f"{codec}: it does not decode: {error.strerror}") from error
    if not frames:
        raise InvalidPicture(f"{codec}: there is no picture in it")
    return frames[0]


def _recognise(data: bytes) -> Literal["png", "mjpeg"]:
    if data.startswith(_PNG):
        return "png"
    if data.startswith(_JPEG):
        return "mjpeg"
    raise UnsupportedVideo(f"expected a JPEG or PNG file, got one that begins with {data[:16]!r}")


def _png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the frame header, which comes before any pixels."""
    for marker, payload in exif.segments(data):
        if marker in _JPEG_FRAMES and len(payload) >= 5:
            return int.from_bytes(payload[3:5], "big"), int.from_bytes(payload[1:3], "big")
    return None


def _pose(data: bytes) -> Pose:
    return _POSES[exif.orientation(data)] if data.startswith(_JPEG) else Pose()
