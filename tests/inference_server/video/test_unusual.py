"""Sound alone, several streams of pictures, interlaced pictures, and readers that are never handed too much."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from inference_server.errors import UnsupportedVideo, VideoLimitExceeded
from inference_server.video import DecoderPool, DecoderSettings
from inference_server.video.source import Spooled, Streamed, open_source


def mux(path: Path, *sizes: tuple[int, int], sound: bool = False) -> bytes:
    """Matroska with a stream of two pictures for each size, and sound if wanted."""
    with av.open(str(path), "w", format="matroska") as output:
        streams: list[Any] = []
        for width, height in sizes:
            stream: Any = output.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        speech: Any = output.add_stream("mp2", rate=48_000) if sound else None
        for index in range(2):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(np.full((stream.height, stream.width, 3), 90, np.uint8))
                frame.pts, frame.time_base = index, Fraction(1, 25)
                output.mux(stream.encode(frame))
        if speech:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1152), np.int16), format="s16", layout="stereo")
            silence.sample_rate, silence.pts = 48_000, 0
            output.mux(speech.encode(silence))
        for stream in (*streams, *([speech] if speech else [])):
            output.mux(stream.encode(None))
    return path.read_bytes()


async def test_sound_alone_is_refused(tools: Any, pool: DecoderPool, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedVideo, match="expected a stream of pictures, got audio"):
        await tools.decode(pool, mux(tmp_path / "sound", sound=True))


async def test_the_first_of_several_streams_of_pictures_is_taken(tools: Any, pool: DecoderPool, tmp_path: Path) -> None:
    decoded = await tools.decode(pool, mux(tmp_path / "two", (64, 48), (160, 96), sound=True))
    assert [(frame.width, frame.height) for frame in decoded.frames] == [(64, 48)] * 2


async def test_tracks_are_counted(tools: Any, spool: Path, tmp_path: Path) -> None:
    data = mux(tmp_path / "two", (64, 48), (160, 96), sound=True)
    async with DecoderPool(DecoderSettings(spool_folder=spool, max_tracks=2)) as pool:
        with pytest.raises(VideoLimitExceeded, match="max_tracks: expected at most 2 in a container, got more"):
            await tools.decode(pool, data)


async def test_interlaced_pictures_are_both_fields(tools: Any, pool: DecoderPool) -> None:
    data = tools.encode("mpegts", "mpeg2video", codec_options={"flags": "+ildct+ilme"}, count=5)
    decoded = await tools.decode(pool, data)
    assert decoded.timeline == tools.plain(data)
    assert {(frame.width, frame.height) for frame in decoded.frames} == {(160, 96)}


@pytest.mark.parametrize("field", ["max_video_frames", "max_video_seconds", "max_video_bytes"])
async def test_a_video_that_is_too_long_is_ended(tools: Any, spool: Path, video: bytes, field: str) -> None:
    limit = {"max_video_frames": 30, "max_video_seconds": 1.2, "max_video_bytes": len(video)}[field]
    async with DecoderPool(DecoderSettings(spool_folder=spool, **{field: limit})) as pool:
        assert len((await tools.decode(pool, video)).frames) == 30
    async with DecoderPool(
        DecoderSettings(spool_folder=spool, **{field: limit / 2 if limit == 1.2 else limit - 1})
    ) as pool:
        with pytest.raises(VideoLimitExceeded, match=f"{field}: expected at most"):
            await tools.decode(pool, video)


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_a_reader_never_hands_back_more_than_was_asked_for(tmp_path: Path, size: int) -> None:
    """FFmpeg's buffer has room for `size` bytes and no more, and PyAV copies whatever it is handed."""
    data = os.urandom(50_000)
    waiting = bytearray(data)

    def receive(most: int) -> bytes:
        taken = bytes(waiting[:most])
        del waiting[:most]
        return taken

    link: Any = SimpleNamespace(read=receive, serve=lambda *, wait: None)
    streamed = Streamed(link)
    streamed.peek(3000)
    (tmp_path / "spooled").write_bytes(data)
    fd = os.open(tmp_path / "spooled", os.O_RDONLY)
    try:
        for reader in (streamed, Spooled(link, fd)):
            pieces = list(iter(lambda reader=reader: reader.read(size), b""))  # type: ignore[misc]
            assert max(map(len, pieces)) <= size
            assert b"".join(pieces) == data
    finally:
        os.close(fd)


@pytest.mark.parametrize("piece", [1, 188, 100_000])
def test_what_a_video_is_taken_for_does_not_depend_on_how_fast_it_comes(piece: int) -> None:
    """A packet that lost its first byte makes a transport stream no less one."""
    packets = [b"\x47" + bytes(187)] * 5 + [bytes(188)] + [b"\x47" + bytes(187)] * 5
    waiting = bytearray(b"".join(packets))

    def receive(most: int) -> bytes:
        taken = bytes(waiting[: min(most, piece)])
        del waiting[: len(taken)]
        return taken

    link: Any = SimpleNamespace(read=receive)
    demuxer, source = open_source(link, DecoderSettings(), OSError())
    assert demuxer == "mpegts"
    assert b"".join(iter(lambda: source.read(1000), b"")) == b"".join(packets)
