"""An analysis that broke off and its rest are the whole; the same file gives the same frames every time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from inference_server.errors import FrameNotFound
from inference_server.video import DecoderPool, StreamRequest

# Gaps, pairs and pauses, in units of 1/25 s.
VARIABLE = [0, 1, 2, 5, 6, 13, 14, 15, 30, 31, 32, 33, 60, 61, 75, 76, 90, 91, 92, 99]
B_FRAMES = {"bf": "3", "g": "12"}
VIDEOS = {
    "H.264 with B-frames in MP4": ("mp4", "libx264", {"movflags": "faststart"}, B_FRAMES),
    "H.264 in MP4, index last": ("mp4", "libx264", {}, B_FRAMES),
    "HEVC in Matroska": ("matroska", "libx265", {}, {"x265-params": "log-level=none"}),
    "H.264 in MPEG-TS": ("mpegts", "libx264", {}, B_FRAMES),
    "VP9 in WebM": ("webm", "libvpx-vp9", {}, {"cpu-used": "8", "deadline": "realtime"}),
}
REQUESTS = [
    StreamRequest(),
    StreamRequest(stride=3),
    StreamRequest(frames_per_second=4.0),
    StreamRequest(start_seconds=0.2, end_seconds=3.0, stride=2, max_frames=5),
]


def results(decoded: Any) -> list[tuple[Any, ...]]:
    return [
        (frame.frame_index, frame.pts, frame.time_base, frame.time_seconds, frame.width, frame.height, pixels.tobytes())
        for frame, pixels in zip(decoded.frames, decoded.pixels, strict=True)
    ]


@pytest.mark.parametrize("name", VIDEOS)
async def test_broken_off_and_resumed_is_the_whole_and_equals_a_plain_loop(
    tools: Any, pool: DecoderPool, name: str
) -> None:
    container, codec, options, codec_options = VIDEOS[name]
    data = tools.encode(
        container, codec, options=options, codec_options=codec_options, count=len(VARIABLE), pts=VARIABLE, size=(64, 48)
    )
    plain = tools.plain(data)
    assert [b > a for (_, a, _), (_, b, _) in pairwise(plain)] == [True] * (len(VARIABLE) - 1)
    for request in REQUESTS:
        decoded = await tools.decode(pool, data, request)
        whole = results(decoded)
        assert len(whole) >= 4
        assert set(decoded.timeline) <= set(plain)
        for broke_off in (1, len(whole) // 2, len(whole)):
            rest = await tools.decode(pool, data, replace(request, resume_after_pts=whole[broke_off - 1][1]))
            assert results(rest) == whole[broke_off:], (request, broke_off)


async def test_any_frame_will_do_to_resume_after(tools: Any, pool: DecoderPool, video: bytes) -> None:
    """The last one seen need not have been one of the sample."""
    plain = tools.plain(video)
    decoded = await tools.decode(pool, video, StreamRequest(stride=10, resume_after_pts=plain[13][1]))
    assert [frame.frame_index for frame in decoded.frames] == [20]
    assert decoded.summary.frames_decoded == 30


async def test_a_frame_that_is_not_there_is_said(tools: Any, pool: DecoderPool, video: bytes) -> None:
    with pytest.raises(FrameNotFound, match=r"resume_after_pts: .*, got -1, which none of 30 has"):
        await tools.decode(pool, video, StreamRequest(resume_after_pts=-1))
