"""Many streams in one server: none of them costs another anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from demo import scene
from harness import NAME, Pair, eventually
from videoai import InferenceClient, aio
from videoai.errors import ResourceExhausted
from videoai.inference.v1 import inference_pb2


def trickle(video: Path, done: threading.Event) -> Iterator[bytes]:
    """A video that does not end before `done`."""
    yield video.read_bytes()
    done.wait(60)


@pytest.fixture
def serving(pair: Pair, onnx_files: dict[int, Path]) -> Callable[..., Pair]:
    """A function that starts a pair that serves version 1 with the flags given."""

    def start(*flags: str) -> Pair:
        pair.start_registry()
        pair.register(onnx_files[1], 1)
        pair.activate(1)
        pair.start_inference(*flags)
        pair.wait_until_running(1)
        return pair

    return start


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of a video without an end: sent again and again it is one."""
    path = tmp_path_factory.mktemp("video") / "scene.ts"
    scene.encode(path, frames=60, size=(320, 192))
    return path


async def test_one_stream_too_many_is_told_when_to_try_again(serving: Callable[..., Pair], video: Path) -> None:
    pair = serving("--max-streams", "1")
    done = threading.Event()
    first = pair.analyze(trickle(video, done))
    next(iter(first))
    with InferenceClient(pair.inference_process.address) as client, pytest.raises(ResourceExhausted) as raised:
        list(client.analyze_video(video, NAME))
    assert raised.value.retry_after_seconds == 1
    assert "max-streams: 1 " in raised.value.details
    async with aio.InferenceClient(pair.inference_process.address) as client:
        with pytest.raises(ResourceExhausted) as raised:
            [frame async for frame in client.analyze_video(video, NAME)]
        assert raised.value.retry_after_seconds == 1
    done.set()
    assert len(list(first)) == 119
    eventually(lambda: len(list(pair.analyze(video))) == 120, "there is room for the next")


def endless(video: Path) -> Iterator[bytes]:
    while True:
        yield video.read_bytes()


def decoders(pair: Pair) -> list[psutil.Process]:
    return [
        decoder
        for child in psutil.Process(pair.inference_process.popen.pid).children()
        if "inference_server.video.nursery" in child.cmdline()
        for decoder in child.children()
    ]


def active(pair: Pair) -> int:
    state = pair.inference.GetServingState(inference_pb2.GetServingStateRequest(), timeout=60)
    return state.active_streams


def holds_frames(pair: Pair) -> bool:
    """Whether the server has memory of frames mapped."""
    return "videoai-frames" in Path(f"/proc/{pair.inference_process.popen.pid}/maps").read_text()


def test_a_reader_that_stops_slows_its_own_stream_only(serving_v1_shared: Pair, video: Path, long: Path) -> None:
    stopped = serving_v1_shared.analyze(endless(long))
    next(iter(stopped))
    assert len(list(serving_v1_shared.analyze(video))) == 120
    stopped.call.cancel()
    eventually(lambda: active(serving_v1_shared) == 0)


def test_an_analysis_that_broke_off_goes_on_where_it_was(serving_v1_shared: Pair, video: Path) -> None:
    whole = list(serving_v1_shared.analyze(video, stride=2))
    for frame in whole:
        frame.ClearField("timings")
    broken_off = serving_v1_shared.analyze(video, stride=2)
    last = [next(iter(broken_off)) for _ in range(20)][-1]
    broken_off.call.cancel()
    rest = serving_v1_shared.analyze(video, stride=2, resume_after_pts=last.pts)
    again = list(rest)
    for frame in again:
        frame.ClearField("timings")
    assert (len(whole), again) == (60, whole[20:])
    assert rest.summary is not None
    assert rest.summary.frames_analyzed == 40


def test_a_call_that_is_cancelled_frees_its_decoder_and_its_place(serving_v1_shared: Pair, long: Path) -> None:
    streams = [serving_v1_shared.analyze(endless(long)) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
    assert (len(decoders(serving_v1_shared)), active(serving_v1_shared)) == (3, 3)
    for stream in streams:
        stream.call.cancel()
    eventually(lambda: (len(decoders(serving_v1_shared)), active(serving_v1_shared)) == (0, 0), "all is freed")
    eventually(lambda: not holds_frames(serving_v1_shared), "the frames' memory is given back")


def test_a_stream_that_fails_gives_its_memory_back(serving: Callable[..., Pair], video: Path) -> None:
    pair = serving("--max-video-frames", "20")
    for _ in range(3):
        with pytest.raises(grpc.RpcError, match="max_video_frames"):
            list(pair.analyze(video))
    eventually(lambda: not holds_frames(pair), "the frames' memory is given back")
