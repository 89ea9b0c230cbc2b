"""Cover pictures beside and instead of a video: they are never taken for one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from inference_server.errors import UnsupportedVideo
from inference_server.video import DecoderPool

RATE = Fraction(1, 25)


def mux(path: Path, container: str, cover: bytes, *, pictures: int) -> bytes:
    """So many pictures of 64 x 48, or sound if there are none, and a cover of 160 x 96."""
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream("mpeg4", rate=25) if pictures else output.add_stream("aac", rate=48_000)
        if container == "matroska":
            output.add_attachment("cover.jpg", "image/jpeg", cover)
        if pictures:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        attached: Any = output.add_stream("mjpeg", rate=1) if container == "mp4" else None
        if attached:
            attached.width, attached.height, attached.pix_fmt = 160, 96, "yuvj420p"
            attached.disposition = Disposition.attached_pic
            output.start_encoding()
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts, packet.time_base = attached, 0, 0, RATE
            output.mux(packet)
        for index in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8))
            frame.pts, frame.time_base = index, RATE
            output.mux(stream.encode(frame))
        if not pictures:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1024), np.int16), format="s16", layout="stereo")
            silence.sample_rate, silence.pts = 48_000, 0
            output.mux(stream.encode(silence))
        output.mux(stream.encode(None))
    return path.read_bytes()


def cover_first(data: bytes) -> bytes:
    """An MP4 whose index has the box with the cover in front of those of the streams."""
    index = data.index(b"moov") + 4
    first, extra = data.index(b"trak", index) - 4, data.index(b"udta", index) - 4
    end = extra + int.from_bytes(data[extra : extra + 4], "big")
    return data[:first] + data[extra:end] + data[first:extra] + data[end:]


@pytest.fixture(scope="module")
def cover(tools: Any) -> bytes:
    jpeg: bytes = tools.encode("mjpeg", "mjpeg", pix_fmt="yuvj420p", count=1)
    return jpeg


@pytest.mark.parametrize("container", ["mp4", "matroska"])
async def test_the_video_is_taken_and_not_its_cover(
    tools: Any, pool: DecoderPool, cover: bytes, tmp_path: Path, container: str
) -> None:
    data = mux(tmp_path / "video", container, cover, pictures=3)
    for variant in (data, cover_first(data)) if container == "mp4" else (data,):
        decoded = await tools.decode(pool, variant)
        assert [(frame.width, frame.height) for frame in decoded.frames] == [(64, 48)] * 3
        assert decoded.info.codec == "mpeg4"
    if container == "mp4":
        (tmp_path / "first").write_bytes(cover_first(data))
        with av.open(str(tmp_path / "first")) as opened:
            assert opened.streams.video[0].disposition & Disposition.attached_pic, "the cover does come first"


@pytest.mark.parametrize("container", ["mp4", "matroska"])
async def test_sound_with_a_cover_is_no_video(
    tools: Any, pool: DecoderPool, cover: bytes, tmp_path: Path, container: str
) -> None:
    data = mux(tmp_path / "sound", container, cover, pictures=0)
    with pytest.raises(UnsupportedVideo, match="expected a stream of pictures, got audio, video"):
        await tools.decode(pool, data)
