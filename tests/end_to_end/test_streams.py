"""Many streams in one server: none of them costs another anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import NAME, Pair, eventually
from videoai import InferenceClient, aio
from videoai.errors import ResourceExhausted


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
