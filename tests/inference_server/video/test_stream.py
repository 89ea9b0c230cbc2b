"""One stream: what is sampled, when things wait for each other, and changes of target on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from inference_server.detection import Layout
from inference_server.errors import UnsupportedVideo
from inference_server.video import DecoderPool, DecoderSettings, PreparedFrame, StreamRequest, Target

SMALL, LARGE = Layout(48, 48), Layout(96, 96)


def indices(decoded: Any) -> list[int]:
    return [frame.frame_index for frame in decoded.frames]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (StreamRequest(stride=7), [0, 7, 14, 21, 28]),
        (StreamRequest(frames_per_second=5), [0, 5, 10, 15, 20, 25]),
        (StreamRequest(start_seconds=0.4, end_seconds=0.6), [10, 11, 12, 13, 14]),
        (StreamRequest(max_frames=3), [0, 1, 2]),
        (StreamRequest(stride=4, start_seconds=0.4, max_frames=2), [12, 16]),
        (StreamRequest(start_seconds=9.0), []),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "mpegts"])
async def test_sampling(tools: Any, pool: DecoderPool, container: str, request_: StreamRequest, expected: Any) -> None:
    data = tools.encode(container)

    decoded = await tools.decode(pool, data, request_)

    assert decoded.timeline == [tools.plain(data)[index] for index in expected]
    assert [frame.time_seconds for frame in decoded.frames] == pytest.approx([index / 25 for index in expected])


async def test_uneven_timestamps_are_kept(tools: Any, pool: DecoderPool) -> None:
    pts = [0, 1, 5, 6, 20, 21, 22, 40]
    data = tools.encode("matroska", pts=pts, count=len(pts))

    decoded = await tools.decode(pool, data, StreamRequest(frames_per_second=5))

    assert indices(decoded) == [0, 2, 4, 7]
    assert [frame.time_seconds for frame in decoded.frames] == pytest.approx([0, 0.2, 0.8, 1.6])


async def test_frames_come_while_the_upload_stalls(tools: Any, pool: DecoderPool) -> None:
    data = tools.encode("mpegts", count=100)
    async with await pool.open(StreamRequest(), Target(SMALL, 0)) as stream:
        await stream.feed(data[: len(data) * 3 // 4])  # and nothing more for now
        info = await stream.started()
        frames = aiter(stream)
        first = await anext(frames)
        assert (info.width, info.height, first.frame_index) == (160, 96, 0)
        first.release()

        await tools.send(stream, data[len(data) * 3 // 4 :])
        assert 1 + len([frame.release() async for frame in frames]) == 100


async def test_nobody_reading_stops_the_upload(tools: Any, spool: Any) -> None:
    data = tools.encode("mpegts", count=60, size=(640, 480), codec_options={"crf": "1"})
    assert len(data) > 1_000_000
    async with (
        DecoderPool(DecoderSettings(spool_folder=spool, slots=2)) as pool,
        await pool.open(StreamRequest(), Target(SMALL, 0)) as stream,
    ):
        upload = asyncio.create_task(tools.send(stream, data, 16_384))
        frames = aiter(stream)
        held = [await anext(frames), await anext(frames)]
        third = asyncio.ensure_future(anext(frames))
        done, _ = await asyncio.wait((upload, third), timeout=0.3)
        assert not done, "with both slots taken, neither frames nor bytes move"

        for frame in held:
            frame.release()
        (await third).release()
        assert 3 + len([frame.release() async for frame in frames]) == 60
        await upload


async def test_a_slot_is_not_written_before_it_is_released(tools: Any, spool: Any, video: bytes) -> None:
    async with DecoderPool(DecoderSettings(spool_folder=spool, slots=3)) as pool:
        reference = await tools.decode(pool, video, layout=SMALL)
        async with await pool.open(StreamRequest(), Target(SMALL, 0)) as stream:
            await tools.send(stream, video)
            held: list[PreparedFrame] = []
            async for frame in stream:
                held.append(frame)
                if len(held) == 3:
                    oldest = held.pop(0)
                    assert np.array_equal(oldest.pixels, reference.pixels[oldest.frame_index])
                    oldest.release()
                    oldest.release()  # once more is nothing
            assert [frame.frame_index for frame in held] == [28, 29]


async def test_a_decoder_that_is_ahead_hears_of_free_slots_together(
    tools: Any, pool: DecoderPool, video: bytes, monkeypatch: Any
) -> None:
    async with await pool.open(StreamRequest(), Target(SMALL, 0)) as stream:
        told: list[list[int]] = []
        send = stream._decoder.send

        def listen(**message: Any) -> None:
            if message["type"] == "release":
                told.append(list(message["slots"]))
            send(**message)

        monkeypatch.setattr(stream._decoder, "send", listen)
        await tools.send(stream, video)
        frames = aiter(stream)
        held = [await anext(frames) for _ in range(4)]
        after_each = []
        for frame in held:
            frame.release()
            after_each.append([len(slots) for slots in told])
        assert after_each == [[], [2], [2, 1], [2, 1, 1]]
        assert sorted(slot for slots in told for slot in slots) == [0, 1, 2, 3]
        seen = []
        async for frame in frames:
            seen.append(frame.frame_index)
            frame.release()
        assert seen == [*range(4, 30)]


@pytest.mark.parametrize(("before", "after"), [(SMALL, LARGE), (LARGE, SMALL), (SMALL, SMALL)])
async def test_a_new_target_takes_effect_in_order(
    tools: Any, pool: DecoderPool, video: bytes, before: Layout, after: Layout
) -> None:
    async with await pool.open(StreamRequest(), Target(before, 3)) as stream:
        upload = asyncio.create_task(tools.send(stream, video))
        seen: list[tuple[int, int, tuple[int, ...]]] = []
        acknowledged_at: list[int] = []

        async def change() -> None:
            await stream.retarget(Target(after, 4))
            acknowledged_at.append(len(seen))

        changing: asyncio.Task[None] | None = None
        async for frame in stream:
            seen.append((frame.frame_index, frame.target.generation, frame.pixels.shape))
            if len(seen) == 5:
                changing = asyncio.create_task(change())
            frame.release()
            await asyncio.sleep(0)
        assert changing is not None
        await asyncio.gather(upload, changing)

    assert [index for index, _, _ in seen] == list(range(30))
    generations = [generation for _, generation, _ in seen]
    assert generations == sorted(generations)
    assert set(generations) == {3, 4}
    assert 3 not in generations[acknowledged_at[0] :]
    layouts = {3: (before.height, before.width, 3), 4: (after.height, after.width, 3)}
    assert all(shape == layouts[generation] for _, generation, shape in seen)


async def test_a_new_target_is_acknowledged_while_the_upload_stalls(
    tools: Any, pool: DecoderPool, video: bytes
) -> None:
    async with await pool.open(StreamRequest(), Target(SMALL, 0)) as stream:
        await stream.retarget(Target(LARGE, 1))  # nothing fed yet
        await stream.feed(video[:100])
        await stream.retarget(Target(SMALL, 2))
        await tools.send(stream, video[100:])
        frames = []
        async for frame in stream:
            frames.append(frame.target.generation)
            frame.release()
        await stream.retarget(Target(SMALL, 3))  # after the end
    assert frames == [2] * 30


async def test_a_new_target_is_acknowledged_while_all_slots_are_held(
    tools: Any, pool: DecoderPool, video: bytes
) -> None:
    async with await pool.open(StreamRequest(), Target(SMALL, 0)) as stream:
        await tools.send(stream, video)
        frames = aiter(stream)
        held = [await anext(frames) for _ in range(4)]
        before = [frame.pixels.copy() for frame in held]
        await stream.retarget(Target(LARGE, 1))
        later = [await anext(frames) for _ in range(4)]
        assert [frame.target.generation for frame in later] == [1] * 4
        assert [frame.frame_index for frame in (*held, *later)] == list(range(8))
        assert all(np.array_equal(frame.pixels, kept) for frame, kept in zip(held, before, strict=True))


async def test_generations_must_grow(pool: DecoderPool) -> None:
    async with await pool.open(StreamRequest(), Target(SMALL, 1)) as stream:
        with pytest.raises(ValueError, match="generation: expected more than 1, got 1"):
            await stream.retarget(Target(SMALL, 1))


async def test_latest_drops_what_had_to_wait_and_counts_it(tools: Any, pool: DecoderPool, video: bytes) -> None:
    async with await pool.open(StreamRequest(latest=True), Target(SMALL, 0)) as stream:
        await tools.send(stream, video)
        frames = aiter(stream)
        first = await anext(frames)
        # The decoder comes to the end of the video although nobody reads: it answers, with one frame left.
        await stream.retarget(Target(LARGE, 1))
        first.release()
        rest = []
        async for frame in frames:
            rest.append(frame.frame_index)
            frame.release()
        summary = stream.summary
    assert first.frame_index == 0
    assert rest[-1] == 29
    assert rest == sorted(set(rest))
    assert summary.frames_decoded == 30
    assert summary.frames_dropped == 30 - 1 - len(rest)


async def test_what_comes_after_the_last_frame_wanted_is_dropped(tools: Any, pool: DecoderPool) -> None:
    data = tools.encode("mpegts", count=50, size=(640, 480), codec_options={"crf": "1"})
    decoded = await tools.decode(pool, data, StreamRequest(max_frames=1))
    assert indices(decoded) == [0]
    assert decoded.summary.bytes_received < len(data)


async def test_a_failure_is_raised_by_iteration_and_started_but_not_by_feed(pool: DecoderPool) -> None:
    async with await pool.open(StreamRequest(), Target(SMALL, 0)) as stream:
        await stream.feed(b"nonsense" * 1000)
        with pytest.raises(UnsupportedVideo):
            await stream.started()
        for _ in range(3):
            await stream.feed(b"more" * 100_000)
        await stream.end_of_input()
        await stream.retarget(Target(SMALL, 1))
        with pytest.raises(UnsupportedVideo):
            await anext(aiter(stream))


async def test_streams_do_not_disturb_each_other(tools: Any, pool: DecoderPool, video: bytes) -> None:
    reference = await tools.decode(pool, video)
    results = await asyncio.gather(
        *(tools.decode(pool, data) for data in (video, b"junk", video)), return_exceptions=True
    )
    assert isinstance(results[1], UnsupportedVideo)
    for result in (results[0], results[2]):
        assert all(np.array_equal(a, b) for a, b in zip(result.pixels, reference.pixels, strict=True))


async def test_retargeting_an_ended_stream_waits_for_the_frames_that_nobody_took_yet(
    pool: DecoderPool, video: bytes
) -> None:
    """Whoever holds what older frames need must not let go of it before they are taken."""
    async with await pool.open(StreamRequest(max_frames=2), Target(SMALL, 0)) as stream:
        await stream.feed(video)
        await stream.end_of_input()
        await stream.started()
        while not stream.summary.frames_decoded:
            await asyncio.sleep(0.01)
        retargeted = asyncio.create_task(stream.retarget(Target(LARGE, 1)))
        await asyncio.sleep(0.05)
        assert not retargeted.done()
        assert [frame.target.generation async for frame in stream] == [0, 0]
        await asyncio.wait_for(retargeted, 30)
