"""Videos whose size or pixel format changes on the way, within the limit and beyond it."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from inference_server.detection import Layout
from inference_server.errors import VideoLimitExceeded
from inference_server.video import DecoderPool, DecoderSettings, StreamRequest, Target

RATE = Fraction(1, 25)
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}}
# Size, pixel format, how many pictures.
Part = tuple[tuple[int, int], str, int]
SMALL: Part = ((64, 48), "yuv420p", 8)
LARGE: Part = ((320, 240), "yuv420p", 3)


def joined(container: str, codec: str, *parts: Part) -> bytes:
    """What one encoder after the other made of its part, as one stream: the first says how it is described."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25, options=QUIET.get(codec, {}))
        (stream.width, stream.height), stream.pix_fmt = parts[0][0], parts[0][1]
        stream.thread_count = 1
        start = 0
        for part in parts:
            for packet in encoded(codec, part, start):
                packet.stream, packet.time_base = stream, RATE
                output.mux(packet)
            start += part[2]
    return file.getvalue()


def encoded(codec: str, part: Part, start: int) -> list[Any]:
    (width, height), pix_fmt, count = part
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, pix_fmt, RATE
    encoder.framerate, encoder.thread_count, encoder.options = 1 / RATE, 1, QUIET.get(codec, {})
    packets = []
    for index in range(start, start + count):
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), (200, 100, 10 * index), np.uint8))
        frame.pts, frame.time_base = index, RATE
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


async def frames_until_it_is_over(tools: Any, pool: DecoderPool, data: bytes) -> tuple[list[tuple[int, int]], str]:
    """Sizes of the frames that came, and the limit that ended it."""
    sizes = []
    async with await pool.open(StreamRequest(), Target(Layout(32, 32), 0)) as stream:
        await tools.send(stream, data)
        try:
            async for frame in stream:
                sizes.append((frame.width, frame.height))
                frame.release()
        except VideoLimitExceeded as over:
            return sizes, str(over)
    return sizes, "nothing"


CONTAINERS = [
    *(("mpegts", "libx264"), ("h264", "libx264"), ("hevc", "libx265"), ("mjpeg", "mjpeg")),
    *(("matroska", "libvpx-vp9"), ("ivf", "libvpx"), ("matroska", "libsvtav1")),
]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
async def test_a_video_that_outgrows_the_limit_is_ended_with_the_frames_before(
    tools: Any, spool: Path, container: str, codec: str
) -> None:
    small, large = SMALL, LARGE
    if codec == "mjpeg":
        small, large = (SMALL[0], "yuvj420p", SMALL[2]), (LARGE[0], "yuvj420p", LARGE[2])
    data = joined(container, codec, small, large, small)
    settings = DecoderSettings(spool_folder=spool, max_pixels=320 * 240 - 1)
    async with DecoderPool(settings) as pool:
        sizes, reason = await frames_until_it_is_over(tools, pool, data)
    assert reason == "max_pixels: expected at most 76799, got 320x240"
    assert sizes == [(64, 48)] * 8


async def test_within_the_limit_each_frame_says_its_own_size(tools: Any, pool: DecoderPool) -> None:
    data = joined("mpegts", "libx264", SMALL, LARGE, SMALL)
    decoded = await tools.decode(pool, data)
    assert [(frame.width, frame.height) for frame in decoded.frames] == [(64, 48)] * 8 + [(320, 240)] * 3 + [
        (64, 48)
    ] * 8
    assert decoded.timeline == tools.plain(data)


@pytest.mark.parametrize(
    ("container", "codec", "formats"),
    [
        ("mpegts", "libx264", ("yuv420p", "yuv444p", "yuv420p10le")),
        ("hevc", "libx265", ("yuv420p", "yuv420p10le", "yuv444p")),
        ("mjpeg", "mjpeg", ("yuvj420p", "yuvj444p", "yuvj422p")),
    ],
)
async def test_a_change_of_pixel_format_shows_the_same_colours(
    tools: Any, pool: DecoderPool, container: str, codec: str, formats: tuple[str, ...]
) -> None:
    data = joined(container, codec, *(((64, 48), pix_fmt, 3) for pix_fmt in formats))
    with av.open(io.BytesIO(data)) as opened:
        assert {frame.format.name for frame in opened.decode(video=0)} == set(formats)

    decoded = await tools.decode(pool, data, layout=Layout(64, 48))

    assert [frame.frame_index for frame in decoded.frames] == list(range(9))
    assert decoded.summary.corrupt_packets == 0
    for index, pixels in enumerate(decoded.pixels):
        assert np.abs(pixels.mean((0, 1)) - (200, 100, 10 * index)).max() < 8, index
