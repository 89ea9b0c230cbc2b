from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import queue
import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import videoai
import videoai.aio
from videoai import errors
from videoai.inference.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 4096  # four chunks
RESULT = inference_pb2.FrameResult(frame_index=0, model_version=4)


class Upload:
    """Answers AnalyzeVideo: keeps what comes, then sends `answers`."""

    def __init__(self, answers: list[inference_pb2.AnalyzeVideoResponse]) -> None:
        self.answers = answers
        self.config: inference_pb2.AnalyzeConfig | None = None
        self.chunks: list[bytes] = []

    def __call__(self, requests: Any, context: grpc.ServicerContext) -> Iterator[inference_pb2.AnalyzeVideoResponse]:
        self.config = next(requests).config
        self.chunks = [request.chunk for request in requests]
        yield from self.answers


async def analyze(caller: Any, source: Any, **options: Any) -> tuple[Any, list[Any]]:
    analysis = caller.client.analyze_video(source, "shapes", **options)
    if hasattr(analysis, "__aiter__"):
        return analysis, [frame async for frame in analysis]
    return analysis, await asyncio.to_thread(list, analysis)


def sources(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "video.bin"
    path.write_bytes(CONTENT)
    return {
        "path": path,
        "string": str(path),
        "bytes": CONTENT,
        "file": io.BytesIO(CONTENT),
        "iterable": [CONTENT[:1000], b"", CONTENT[1000:]],
        "generator": (CONTENT[i : i + 300_000] for i in range(0, len(CONTENT), 300_000)),
    }


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "file", "iterable", "generator"])
async def test_every_kind_of_source_arrives_whole(
    fake: Any, inference: Any, video_answers: Any, tmp_path: Path, kind: str
) -> None:
    upload = fake.inference.answers["AnalyzeVideo"] = Upload(video_answers)
    analysis, frames = await analyze(inference, sources(tmp_path)[kind], stride=2, confidence_threshold=0.5)
    assert b"".join(upload.chunks) == CONTENT
    assert all(0 < len(chunk) <= 256 * 1024 for chunk in upload.chunks)
    expected = {"model_name": "shapes", "stride": 2, "confidence_threshold": 0.5, "max_frames_per_response": 16}
    assert upload.config == inference_pb2.AnalyzeConfig(**expected)
    assert [frame.model_version for frame in frames] == [1, 1, 2]
    assert analysis.started.codec == "h264"
    assert dict(analysis.summary.frames_per_version) == {1: 2, 2: 1}


async def test_an_async_iterable_arrives_whole(fake: Any, video_answers: Any) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        yield CONTENT[1000:]

    upload = fake.inference.answers["AnalyzeVideo"] = Upload(video_answers)
    async with videoai.aio.InferenceClient(fake.address) as client:
        assert len([frame async for frame in client.analyze_video(source())]) == 3
    assert b"".join(upload.chunks) == CONTENT


async def test_frames_that_come_together_are_given_one_by_one(fake: Any, inference: Any, video_answers: Any) -> None:
    started, first, *rest = video_answers
    second = inference_pb2.FrameResult(frame_index=7, model_version=3)
    together = inference_pb2.FrameResults(frames=[first.frame, second])
    answers = [started, inference_pb2.AnalyzeVideoResponse(frames=together), *rest]
    upload = fake.inference.answers["AnalyzeVideo"] = Upload(answers)
    _, frames = await analyze(inference, CONTENT, max_frames_per_response=2)
    assert [frame.model_version for frame in frames] == [1, 3, 1, 2]
    assert upload.config.max_frames_per_response == 2


async def test_results_come_while_the_upload_runs(fake: Any, inference: Any, video_answers: Any) -> None:
    """The source gives its second half only once the first frame's result is here."""
    result_seen = threading.Event()

    def answer(requests: Any, context: grpc.ServicerContext) -> Any:
        next(requests), next(requests)
        yield from video_answers[:2]
        assert [request.chunk for request in requests] == [b"second"]
        yield from video_answers[2:]

    def source() -> Iterator[bytes]:
        yield b"first"
        assert result_seen.wait(30)
        yield b"second"

    fake.inference.answers["AnalyzeVideo"] = answer
    analysis = inference.client.analyze_video(source())
    first = await (anext(analysis) if hasattr(analysis, "__aiter__") else asyncio.to_thread(next, analysis))
    assert first.frame_index == 0
    assert analysis.started.container == "matroska,webm"
    with pytest.raises(RuntimeError, match="read all frames first"):
        _ = analysis.summary
    result_seen.set()
    if hasattr(analysis, "__aiter__"):
        assert len([frame async for frame in analysis]) == 2
    else:
        assert len(await asyncio.to_thread(list, analysis)) == 2
    assert analysis.summary.frames_analyzed == 3


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(1000)


async def test_a_refusal_during_the_upload_is_the_servers(fake: Any, inference: Any) -> None:
    def answer(requests: Any, context: grpc.ServicerContext) -> Any:
        next(requests), next(requests)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "codec 'cinepak' is not allowed")

    fake.inference.answers["AnalyzeVideo"] = answer
    for _ in range(30):
        with pytest.raises(errors.InvalidArgument, match="cinepak"):
            await analyze(inference, endless())


async def test_the_server_may_end_before_the_upload_does(fake: Any, inference: Any, video_answers: Any) -> None:
    def answer(requests: Any, context: grpc.ServicerContext) -> Any:
        next(requests), next(requests)
        yield from video_answers

    fake.inference.answers["AnalyzeVideo"] = answer
    _, frames = await analyze(inference, endless(), max_frames=3)
    assert len(frames) == 3


async def test_what_the_source_raises_is_raised_and_the_call_cancelled(fake: Any, inference: Any) -> None:
    outcomes: queue.Queue[str] = queue.Queue()

    def answer(requests: Any, context: grpc.ServicerContext) -> Any:
        cancelled = threading.Event()
        if not context.add_callback(cancelled.set):  # it has ended already
            cancelled.set()
        with contextlib.suppress(grpc.RpcError):
            for _ in requests:
                pass
        outcomes.put("cancelled" if cancelled.wait(15) else "taken for whole")
        yield from ()

    def source() -> Iterator[bytes]:
        yield bytes(1000)
        raise ValueError("the camera is gone")

    fake.inference.answers["AnalyzeVideo"] = answer
    with pytest.raises(ValueError, match="the camera is gone"):
        await analyze(inference, source())
    assert await asyncio.to_thread(outcomes.get, timeout=30) == "cancelled"


async def test_a_missing_file_is_raised_as_it_is(fake: Any, inference: Any, tmp_path: Path) -> None:
    fake.inference.answers["AnalyzeVideo"] = Upload([])
    with pytest.raises(FileNotFoundError):
        await analyze(inference, tmp_path / "none.mp4")


async def test_text_is_refused(fake: Any, inference: Any) -> None:
    fake.inference.answers["AnalyzeVideo"] = Upload([])
    with pytest.raises(TypeError, match="source: expected bytes, got str"):
        await analyze(inference, io.StringIO("text"))


async def test_results_without_summary_are_not_taken_for_whole(fake: Any, inference: Any, video_answers: Any) -> None:
    fake.inference.answers["AnalyzeVideo"] = Upload(video_answers[:-1])
    with pytest.raises(errors.Internal, match="without a summary"):
        await analyze(inference, b"x")


async def test_leaving_early_cancels_the_call(fake: Any, inference: Any, video_answers: Any) -> None:
    ended = threading.Event()

    def answer(requests: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.set)
        yield from video_answers[:2]
        ended.wait(30)

    fake.inference.answers["AnalyzeVideo"] = answer
    analysis = inference.client.analyze_video(endless())
    if hasattr(analysis, "__aiter__"):
        async for _ in analysis:
            break
    else:
        for _ in analysis:
            break
    del analysis
    gc.collect()
    assert await asyncio.to_thread(ended.wait, 30)


async def test_stride_and_rate_exclude_each_other(inference: Any) -> None:
    with pytest.raises(ValueError, match="expected at most one of them"):
        inference.client.analyze_video(b"", stride=2, frames_per_second=1.0)


async def test_pictures(fake: Any, inference: Any) -> None:
    fake.inference.answers["AnalyzeFrames"] = lambda *_: inference_pb2.AnalyzeFramesResponse(results=[RESULT, RESULT])
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    results = await inference("analyze_frames", [b"\x89PNG", pixels[:, ::2]], "shapes", class_names=["square"])
    assert results == [RESULT, RESULT]
    sent = fake.inference.requests[0]
    assert (sent.model_name, list(sent.class_names)) == ("shapes", ["square"])
    assert sent.frames[0].encoded == b"\x89PNG"
    raw = sent.frames[1].raw
    assert (raw.width, raw.height, raw.rgb) == (3, 4, pixels[:, ::2].tobytes())


async def test_a_raw_4k_picture_fits(fake: Any, inference: Any) -> None:
    fake.inference.answers["AnalyzeFrames"] = lambda *_: inference_pb2.AnalyzeFramesResponse(results=[RESULT])
    await inference("analyze_frames", [np.zeros((2160, 3840, 3), np.uint8)])
    assert len(fake.inference.requests[0].frames[0].raw.rgb) == 2160 * 3840 * 3


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), "u1")]
)
async def test_arrays_of_other_shape_or_type_are_refused(inference: Any, array: Any) -> None:
    with pytest.raises(ValueError, match=r"pictures\[1\]: expected H x W x 3 of uint8, got"):
        await inference("analyze_frames", [b"jpeg", array])


async def test_serving_state(fake: Any, inference: Any) -> None:
    state = inference_pb2.GetServingStateResponse(instance_id="replica-1", registry_connected=True)
    fake.inference.answers["GetServingState"] = lambda *_: state
    assert await inference("serving_state") == state


def source_answers(video_answers):
    """The same three frames, with a gap before the last."""
    answer = inference_pb2.AnalyzeSourceResponse
    told = [answer(**{a.WhichOneof("result"): getattr(a, a.WhichOneof("result"))}) for a in video_answers]
    gaps = [
        inference_pb2.Gap(gap_index=0, reason="stalled"),
        inference_pb2.Gap(gap_index=0, reason="refused", attempts=1, seconds=1.5),
        inference_pb2.Gap(gap_index=0, reason="stalled", attempts=2, seconds=3.5, resumed=True),
    ]
    return [*told[:3], *(answer(gap=gap) for gap in gaps), *told[3:]]


@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_sources_are_asked_for_and_gaps_told_in_order(fake, video_answers, kind):
    fake.inference.answers["AnalyzeSource"] = lambda request, context: iter(source_answers(video_answers))
    told = []
    options = {"stride": 2, "max_reconnects": 0, "give_up_seconds": 5.0}
    uri = "rtsp://cam/x"

    def note(gap):
        told.append((gap.attempts, gap.resumed))

    if kind == "sync":

        def run():
            with videoai.InferenceClient(fake.address) as client:
                analysis = client.analyze_source(uri, "shapes", on_gap=note, **options)
                for frame in analysis:
                    told.append(frame.frame_index)  # noqa: PERF401 - on_gap appends in between
                return analysis

        analysis = await asyncio.to_thread(run)
    else:
        async with videoai.aio.InferenceClient(fake.address) as client:
            analysis = client.analyze_source(uri, "shapes", on_gap=note, **options)
            async for frame in analysis:
                told.append(frame.frame_index)  # noqa: PERF401
    assert told == [0, 1, (0, False), (1, False), (2, True), 2]
    assert [(gap.seconds, gap.resumed) for gap in analysis.gaps] == [(3.5, True)]
    assert analysis.summary.frames_decoded == 3
    (request,) = fake.inference.requests
    assert request.uri == uri
    assert (request.config.model_name, request.config.stride) == ("shapes", 2)
    assert request.HasField("max_reconnects")
    assert (request.max_reconnects, request.give_up_seconds) == (0, 5.0)


@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_a_source_that_is_given_up_raises_what_the_server_says(fake, video_answers, kind):
    def give_up(request, context):
        yield from source_answers(video_answers)[:5]
        context.abort(grpc.StatusCode.UNAVAILABLE, "max_reconnects: gone")

    fake.inference.answers["AnalyzeSource"] = give_up

    async def run():
        if kind == "sync":
            with videoai.InferenceClient(fake.address) as client:
                return await asyncio.to_thread(list, client.analyze_source("rtsp://cam/x"))
        async with videoai.aio.InferenceClient(fake.address) as client:
            return [frame async for frame in client.analyze_source("rtsp://cam/x")]

    with pytest.raises(errors.Unavailable, match="max_reconnects: gone"):
        await run()
