"""Whatever is accepted decodes to the frames of a plain PyAV loop; whatever is not is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference_server.errors import CorruptVideo, UnsupportedVideo, VideoLimitExceeded
from inference_server.video import DecoderPool, DecoderSettings

FORMATS = [
    ("mp4", "libx264", "yuv420p", {}, "mov,mp4,m4a,3gp,3g2,mj2", "h264"),
    ("mp4", "libx264", "yuv420p", {"movflags": "faststart"}, "mov,mp4,m4a,3gp,3g2,mj2", "h264"),
    ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}, "mov,mp4,m4a,3gp,3g2,mj2", "h264"),
    ("mov", "mjpeg", "yuvj420p", {}, "mov,mp4,m4a,3gp,3g2,mj2", "mjpeg"),
    ("matroska", "libx264", "yuv420p", {}, "matroska,webm", "h264"),
    ("mpegts", "libx264", "yuv420p", {}, "mpegts", "h264"),
    ("mpegts", "libx264", "yuv420p", {"mpegts_m2ts_mode": "1"}, "mpegts", "h264"),
    ("webm", "libvpx-vp9", "yuv420p", {}, "matroska,webm", "vp9"),
    ("ivf", "libvpx", "yuv420p", {}, "ivf", "vp8"),
    ("avi", "mpeg4", "yuv420p", {}, "avi", "mpeg4"),
    ("flv", "libx264", "yuv420p", {}, "flv", "h264"),
    ("h264", "libx264", "yuv420p", {}, "h264", "h264"),
    ("mjpeg", "mjpeg", "yuvj420p", {}, "mjpeg", "mjpeg"),
]


@pytest.mark.parametrize(("container", "encoder", "pix_fmt", "options", "name", "codec"), FORMATS)
async def test_frames_equal_a_plain_loop(
    tools: Any, pool: DecoderPool, container: str, encoder: str, pix_fmt: str, options: Any, name: str, codec: str
) -> None:
    data = tools.encode(container, encoder, pix_fmt=pix_fmt, options=options)

    decoded = await tools.decode(pool, data)

    assert decoded.timeline == tools.plain(data)
    assert len(decoded.frames) == decoded.summary.frames_decoded == 30
    assert (decoded.info.container, decoded.info.codec) == (name, codec)
    assert (decoded.info.width, decoded.info.height) == (160, 96)
    assert decoded.summary.bytes_received == len(data)
    assert not decoded.summary.truncated
    assert decoded.summary.corrupt_packets == 0


async def test_what_the_container_states_is_reported(tools: Any, pool: DecoderPool, video: bytes) -> None:
    info = (await tools.decode(pool, video)).info

    assert (info.frame_rate, info.duration_seconds, info.frame_count) == (25.0, 1.2, 30)


async def test_bytes_may_come_one_by_one(tools: Any, pool: DecoderPool) -> None:
    data = tools.encode(count=3, size=(32, 32), options={"movflags": "faststart"})

    decoded = await tools.decode(pool, data, chunk=1)

    assert decoded.timeline == tools.plain(data)


async def test_anything_else_is_refused_and_told_what_is_accepted(tools: Any, pool: DecoderPool) -> None:
    with pytest.raises(
        UnsupportedVideo, match=r"container: expected MP4/MOV, Matroska/WebM, MPEG-TS.*, got a playlist"
    ):
        await tools.decode(pool, b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/latest\n")


async def test_only_what_the_operator_allows_is_taken(tools: Any, spool: Any, video: bytes) -> None:
    settings = DecoderSettings(spool_folder=spool, containers=("avi",), codecs=("huffyuv",))
    async with DecoderPool(settings) as pool:
        with pytest.raises(UnsupportedVideo, match="container: expected AVI, got MP4/MOV, which is not allowed here"):
            await tools.decode(pool, video)
        with pytest.raises(UnsupportedVideo, match="codec: expected huffyuv, got mpeg4"):
            await tools.decode(pool, tools.encode("avi", "mpeg4", count=2))
        assert len((await tools.decode(pool, tools.encode("avi", "huffyuv", pix_fmt="yuv422p", count=2))).frames) == 2


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypmp42", b"\x1a\x45\xdf\xa3", b"FLV\x01", b"RIFF\0\0\0\0AVI "])
async def test_garbage_behind_a_good_beginning_is_corrupt(tools: Any, pool: DecoderPool, head: bytes) -> None:
    with pytest.raises((CorruptVideo, UnsupportedVideo)):
        await tools.decode(pool, head + bytes(range(256)) * 40)


async def test_a_codec_that_is_not_listed_is_refused(tools: Any, pool: DecoderPool) -> None:
    data = tools.encode("avi", "huffyuv", pix_fmt="yuv422p", count=2)

    with pytest.raises(UnsupportedVideo, match=r"codec: expected .*h264.*, got huffyuv"):
        await tools.decode(pool, data)


async def test_an_index_at_the_end_is_spooled_within_the_limit(tools: Any, video: bytes, spool: Any) -> None:
    late = tools.encode()
    settings = DecoderSettings(spool_folder=spool, max_spool_bytes=len(late))
    async with DecoderPool(settings) as pool:
        assert (await tools.decode(pool, late)).timeline == tools.plain(late)

    settings = DecoderSettings(spool_folder=spool, max_spool_bytes=len(late) - 1)
    async with DecoderPool(settings) as pool:
        assert len((await tools.decode(pool, video)).frames) == 30, "an index in front needs no spooling"
        with pytest.raises(VideoLimitExceeded, match="max_spool_bytes"):
            await tools.decode(pool, late)
    assert list(spool.iterdir()) == []


async def test_pictures_over_the_limit_are_refused(tools: Any, spool: Any, video: bytes) -> None:
    async with DecoderPool(DecoderSettings(spool_folder=spool, max_pixels=160 * 96 - 1)) as pool:
        with pytest.raises(VideoLimitExceeded, match=r"max_pixels: expected at most 15359, got 160x96"):
            await tools.decode(pool, video)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
async def test_a_truncated_video_gives_the_frames_it_has(tools: Any, pool: DecoderPool, container: str) -> None:
    whole = tools.encode(container, options={"movflags": "faststart"} if container == "mp4" else {}, size=(320, 240))

    decoded = await tools.decode(pool, whole[: len(whole) * 2 // 3 | 1])

    assert decoded.summary.truncated
    assert 0 < len(decoded.frames) < 30
    assert [frame.frame_index for frame in decoded.frames] == list(range(len(decoded.frames)))
    assert {frame.pts for frame in decoded.frames} < {pts for _, pts, _ in tools.plain(whole)}


@pytest.mark.parametrize(
    ("container", "encoder", "pix_fmt"),
    [
        ("h264", "libx264", "yuv420p"),
        ("hevc", "libx265", "yuv420p"),
        ("mpegts", "libx264", "yuv420p"),
        ("mpegts", "libx265", "yuv420p"),
        ("mjpeg", "mjpeg", "yuvj420p"),
    ],
)
async def test_a_last_picture_that_is_not_whole_tells_that_a_video_was_cut_short(
    tools: Any, spool: Any, container: str, encoder: str, pix_fmt: str
) -> None:
    """None of these containers states a length; transport streams are cut between two packets.

    A cut that leaves next to nothing of the last picture, or all of it, is not told.
    """
    size = (240, 320) if encoder == "libx265" else (96, 160)
    noise = np.random.default_rng(0).integers(0, 255, (12, *size, 3), np.uint8)
    # Of HEVC only the places where rows of a picture begin tell, which it states if they may be decoded in parallel.
    options = {"preset": "ultrafast", "x265-params": "wpp=1:log-level=none"} if encoder == "libx265" else {}
    whole = tools.encode(container, encoder, pix_fmt=pix_fmt, pictures=list(noise), codec_options=options)
    async with DecoderPool(DecoderSettings(spool_folder=spool)) as pool:
        assert not (await tools.decode(pool, whole)).summary.truncated
        told = 0
        for part in (0.5, 0.63, 0.77, 0.9):
            cut = int(len(whole) * part)
            decoded = await tools.decode(pool, whole[: cut - cut % 188])
            told += decoded.summary.truncated
            assert 0 < len(decoded.frames) <= 12
    assert told >= (2 if encoder == "libx265" else 3)


async def test_cameras_that_leave_out_the_end_of_each_picture_are_not_cut_short(tools: Any, pool: DecoderPool) -> None:
    data = tools.encode("mjpeg", "mjpeg", pix_fmt="yuvj420p").replace(b"\xff\xd9", b"")
    decoded = await tools.decode(pool, data)
    assert len(decoded.frames) == 30
    assert not decoded.summary.truncated


async def test_corrupt_packets_are_skipped_and_counted_up_to_the_budget(tools: Any, spool: Any) -> None:
    data = bytearray(tools.encode("avi", "mjpeg", pix_fmt="yuvj420p"))
    for start in _all(data, b"\xff\xd8\xff")[10:20]:
        data[start : start + 300] = b"\0" * 300

    async with DecoderPool(DecoderSettings(spool_folder=spool)) as pool:
        decoded = await tools.decode(pool, bytes(data))
        assert (len(decoded.frames), decoded.summary.corrupt_packets) == (20, 10)

    async with DecoderPool(DecoderSettings(spool_folder=spool, corrupt_packet_budget=9)) as pool:
        with pytest.raises(CorruptVideo, match="corrupt_packet_budget: more than 9 packets"):
            await tools.decode(pool, bytes(data))


def _all(data: bytes | bytearray, what: bytes) -> list[int]:
    found, at = [], data.find(what)
    while at >= 0:
        found.append(at)
        at = data.find(what, at + 1)
    return found
