"""What several threads decode is what one decodes, of sound videos and of damaged ones."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from inference_server.detection import Layout
from inference_server.errors import VideoError, VideoLimitExceeded
from inference_server.video import DecodedStream, DecoderPool, DecoderSettings, StreamRequest, Target, parallel
from inference_server.video.decoding import Decoding
from inference_server.video.parallel import can_begin

FASTSTART = {"movflags": "faststart"}
THREADS = 4
B_FRAMES = 3
TARGET = Target(Layout(64, 64), 0)
VIDEOS = {
    "pictures out of order": {"bf": "3", "g": "12"},
    "pictures in order": {"bf": "0", "g": "20"},
    "one to begin from": {"bf": "3", "g": "600"},
    "some are shown before the one to begin from": {"bf": "3", "g": "12", "x264-params": "open-gop=1"},
    "all to begin from": {"g": "1"},
    "fields": {"x264-params": "interlaced=1:keyint=15:bframes=2"},
    "none to begin from": {"x264-params": "intra-refresh=1:keyint=15:bframes=2"},
}


def frames_of(video: Decoding) -> Iterator[tuple[Any, ...]]:
    for frame, _ in video.frames():
        pixels = hashlib.sha256(b"".join(bytes(plane) for plane in frame.planes)).hexdigest()
        yield frame.pts, frame.width, frame.height, frame.is_corrupt, pixels


def outcome(tools: Any, data: bytes, threads: int) -> tuple[list[Any], Any, int]:
    """All frames, what else is told of the video, and how many threads decoded in the end."""
    found: list[Any] = []
    with tools.opened(data, threads=threads) as video:
        try:
            found.extend(frames_of(video))
        except VideoError as error:
            return found, (type(error), str(error)), video.threads
        return found, (video.truncated, video.corrupt_packets), video.threads


async def take_all(stream: DecodedStream, indices: list[int]) -> None:
    async for frame in stream:
        indices.append(frame.frame_index)
        frame.release()


@pytest.fixture(scope="module")
def pictures(tools: Any) -> list[Any]:
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    return [np.roll(tools.scene(i, 160, 96) // 2 + noise // 4, 3 * i, 1).astype(np.uint8) for i in range(60)]


@pytest.mark.parametrize("options", [FASTSTART, {}], ids=["index first", "index last"])
@pytest.mark.parametrize("name", VIDEOS)
def test_a_sound_video_is_decoded_by_all_threads_to_its_end(
    tools: Any, pictures: list[Any], name: str, options: dict[str, str]
) -> None:
    data = tools.encode(pictures=pictures, codec_options=VIDEOS[name], options=options)
    several, one = outcome(tools, data, THREADS), outcome(tools, data, 1)
    assert several[:2] == one[:2]
    assert len(one[0]) == 60
    assert (several[2], one[2]) == (THREADS, 1)


def damaged(data: bytes, seed: int) -> bytes:
    """`data` with some of its pictures changed, or its end cut off."""
    chance, made = random.Random(seed), bytearray(data)  # noqa: S311 - choices, not secrets
    start = data.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(data[start - 8 : start - 4], "big")
    for _ in range(chance.choice((1, 1, 1, 3, 20))):
        at = chance.randrange(start, end)
        size = min(chance.choice((1, 1, 50, 400)), end - at)
        made[at : at + size] = chance.choice((bytes(size), chance.randbytes(size)))
    return bytes(made[: chance.randrange(start, end)] if chance.random() < 0.1 else made)


@pytest.mark.parametrize("name", VIDEOS)
def test_damage_has_the_same_effect_however_many_threads_there_are(tools: Any, pictures: list[Any], name: str) -> None:
    data = tools.encode(pictures=pictures, codec_options=VIDEOS[name], options=FASTSTART)
    by_one_in_the_end = 0
    for seed in range(25):
        several, one = outcome(tools, damaged(data, seed), THREADS), outcome(tools, damaged(data, seed), 1)
        # What FFmpeg puts where it has nothing at all is what its memory held before; others build on that, also those
        # that are shown before it.
        sound = max(0, next((index for index, frame in enumerate(one[0]) if frame[3]), len(one[0])) - B_FRAMES)
        assert several[0][:sound] == one[0][:sound], seed
        assert [frame[:4] for frame in several[0]] == [frame[:4] for frame in one[0]], seed
        assert several[1] == one[1], seed
        by_one_in_the_end += several[2] == 1
    assert by_one_in_the_end > 15


def test_too_few_pictures_to_begin_from_leave_a_video_to_one_thread(
    tools: Any, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tools.encode(
        pictures=pictures, codec_options={"x264-params": "keyint=25:scenecut=0:bframes=2"}, options=FASTSTART
    )
    expected = outcome(tools, data, 1)
    for most, threads in ((49, 1), (60, THREADS)):
        monkeypatch.setattr(parallel, "_MOST_PACKETS", most)
        several = outcome(tools, data, THREADS)
        assert several[:2] == expected[:2]
        assert several[2] == threads


def test_the_server_is_listened_to_while_pictures_are_decoded_again(tools: Any, pictures: list[Any]) -> None:
    data = tools.encode(
        pictures=pictures, codec_options={"x264-params": "keyint=20:scenecut=0:bframes=0"}, options=FASTSTART
    )
    steps = []
    with tools.opened(data[: len(data) - 1000], threads=THREADS, on_step=lambda: steps.append(1)) as video:
        assert len(list(video.frames())) > 50
        assert video.threads == 1
    assert 20 <= len(steps) <= 45


def test_large_pictures_get_as_many_threads_as_their_memory_allows_for(tools: Any, pictures: list[Any]) -> None:
    data = tools.encode(pictures=pictures[:2], options=FASTSTART)
    with tools.opened(data, threads=100) as video:
        assert video.threads == 8
    large = tools.encode(pictures=[np.zeros((1920, 2048, 3), np.uint8)], options=FASTSTART)
    with tools.opened(large, DecoderSettings(memory_limit_bytes=300 * 2**20), threads=8) as video:
        assert video.threads == 2


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [("libx265", "mp4", FASTSTART), ("libx264", "matroska", {}), ("libx264", "mp4", {"movflags": "frag_keyframe"})],
)
async def test_other_videos_are_decoded_by_one(
    tools: Any, spool: Any, codec: str, container: str, options: dict[str, str]
) -> None:
    data = tools.encode(container, codec, options=options, codec_options={"x265-params": "log-level=none"})
    async with DecoderPool(DecoderSettings(spool_folder=spool, threads=8)) as pool:
        assert len((await tools.decode(pool, data)).frames) == 30


@pytest.mark.parametrize("chunk", [1000, 10**6])
@pytest.mark.parametrize("options", [FASTSTART, {}], ids=["index first", "index last"])
async def test_what_a_decoder_process_gives_does_not_depend_on_its_threads(
    tools: Any, pictures: list[Any], spool: Any, options: dict[str, str], chunk: int
) -> None:
    data = tools.encode(pictures=pictures, codec_options={"bf": "3", "g": "12"}, options=options)
    found = []
    for threads in (1, 8):
        async with DecoderPool(DecoderSettings(spool_folder=spool, threads=threads)) as pool:
            for video in (data, damaged(data, 3)):
                decoded = await tools.decode(pool, video, chunk=chunk)
                found.append((decoded.timeline, [p.tobytes() for p in decoded.pixels], decoded.summary))
    assert found[:2] == found[2:]
    assert len(found[0][0]) == 60


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
async def test_a_sender_that_pauses_gets_the_frames_that_one_thread_would_give(
    tools: Any, pictures: list[Any], spool: Any, share: float
) -> None:
    data = tools.encode(pictures=pictures, codec_options={"bf": "2", "g": "12"}, options=FASTSTART)
    first = data[: round(share * len(data))]
    counts = []
    for threads in (1, 8):
        async with (
            DecoderPool(DecoderSettings(spool_folder=spool, threads=threads)) as pool,
            await pool.open(StreamRequest(), TARGET) as stream,
        ):
            frames, count = aiter(stream), 0
            await stream.feed(first)
            with suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(1 if count else 10):
                        frame = await anext(frames)
                    count += 1
                    frame.release()
            counts.append(count)
    assert counts[0] == counts[1] >= 10


async def test_a_video_is_ended_by_its_bytes_with_several_threads_too(
    tools: Any, pictures: list[Any], spool: Any
) -> None:
    data = tools.encode(pictures=pictures * 3, codec_options={"qp": "1", "g": "12"}, options=FASTSTART)
    assert len(data) > 1_000_000
    counts = []
    for threads in (1, 8):
        settings = DecoderSettings(spool_folder=spool, threads=threads, max_video_bytes=len(data) * 2 // 3)
        async with DecoderPool(settings) as pool, await pool.open(StreamRequest(), TARGET) as stream:
            upload = asyncio.create_task(tools.send(stream, data))
            indices = []
            with pytest.raises(VideoLimitExceeded, match="max_video_bytes"):
                await take_all(stream, indices)
            await upload
            counts.append(len(indices))
    assert counts[1] >= counts[0] > 20


async def test_memory_for_one_thread_only_fails_no_video(tools: Any, spool: Any) -> None:
    pictures = [np.full((1080, 1920, 3), 20 * i, np.uint8) for i in range(10)]
    data = tools.encode(pictures=pictures, codec_options={"preset": "ultrafast"}, options=FASTSTART)
    settings = DecoderSettings(spool_folder=spool, threads=3, memory_limit_bytes=128 * 1024 * 1024)
    async with DecoderPool(settings) as pool:
        assert len((await tools.decode(pool, data)).frames) == 10


async def test_a_picture_that_takes_too_long_ends_its_video_with_several_threads_too(tools: Any, spool: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 2048, 2048, 3), np.uint8)
    data = tools.encode(pictures=[*noise], codec_options={"preset": "ultrafast", "crf": "10"}, options=FASTSTART)
    async with DecoderPool(DecoderSettings(spool_folder=spool, threads=3, max_frame_cpu_seconds=0.02)) as pool:
        with pytest.raises(VideoLimitExceeded, match=r"^max_frame_cpu_seconds: .* more than 0\.02 s"):
            await tools.decode(pool, data)


async def test_videos_share_the_threads(tools: Any, video: bytes, spool: Any) -> None:
    sampled = StreamRequest(stride=2)
    async with DecoderPool(DecoderSettings(spool_folder=spool, threads=8)) as pool:
        assert (pool.threads_for(sampled), pool.threads_for(StreamRequest())) == (8, 7)
        async with await pool.open(sampled, TARGET) as first, await pool.open(sampled, TARGET):
            assert (pool.threads_for(sampled), pool.threads_for(StreamRequest())) == (2, 1)
            await tools.send(first, video)
            async for frame in first:
                frame.release()
            assert pool.threads_for(sampled) == 4
    async with DecoderPool(DecoderSettings(spool_folder=spool, threads=1)) as pool:
        assert pool.threads_for(StreamRequest()) == 1


SEI, IDR, SLICE = b"\0\0\0\2\x06\0", b"\0\0\0\2\x65\0", b"\0\0\0\2\x41\0"
CONFIGURATION = b"\1\x64\0\x1e\xff"


@pytest.mark.parametrize(
    ("configuration", "packet", "fresh"),
    [
        (CONFIGURATION, IDR, True),
        (CONFIGURATION, SEI + IDR, True),
        (CONFIGURATION, SEI + SLICE + IDR, False),
        (CONFIGURATION, SEI, False),
        (CONFIGURATION, b"", False),
        (CONFIGURATION, b"\xff\xff\xff\xff\x06" + IDR, False),
        (b"\1\x64\0\x1e\xfd", b"\0\2\x06\0" + b"\0\2\x65\0", True),
        (b"", IDR, False),
        (b"\0\0\0\1\x67", b"\0\0\0\1\x65", False),
    ],
)
def test_decoding_can_begin_where_a_packet_starts_with_a_slice_of_an_idr_picture(
    configuration: bytes, packet: bytes, fresh: bool
) -> None:
    assert can_begin(configuration, packet) == fresh
