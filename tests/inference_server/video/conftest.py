"""Real videos, made on the spot, and what a plain PyAV loop makes of them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from inference_server.detection import Layout
from inference_server.video import (
    DecodedStream,
    DecoderPool,
    DecoderSettings,
    StreamRequest,
    Target,
    VideoInfo,
    VideoSummary,
)
from inference_server.video.decoding import Decoding
from inference_server.video.source import Spooled

Pixels = NDArray[np.uint8]


@dataclass
class Decoded:
    """All that came out of a stream; `pixels` are copies."""

    info: VideoInfo
    summary: VideoSummary
    frames: list[Any] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)

    @property
    def timeline(self) -> list[tuple[int, int | None, Fraction]]:
        return [(f.frame_index, f.pts, Fraction(*f.time_base)) for f in self.frames]


def scene(index: int, width: int, height: int) -> Pixels:
    """A smooth picture that differs from frame to frame and from corner to corner."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(1, width - 1), 255 * y / max(1, height - 1)
    return np.stack([red, green, np.full_like(red, index * 7 % 256)], -1).astype(np.uint8)


def encode(
    container: str = "mp4",
    codec: str = "libx264",
    *,
    pictures: Sequence[Pixels] | None = None,
    count: int = 30,
    size: tuple[int, int] = (160, 96),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    rotation: tuple[Any, ...] | None = None,
    pixel_shape: Fraction | None = None,
    pts: Sequence[int] | None = None,
) -> bytes:
    """A video of 25 frames per second, in memory."""
    frames = pictures if pictures is not None else [scene(i, *size) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        with av.open(str(path), "w", format=container, options=options or {}) as output:
            stream: Any = output.add_stream(codec, rate=25, options=codec_options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.thread_count = 1
            if pixel_shape is not None:
                stream.codec_context.sample_aspect_ratio = pixel_shape
            if rotation is not None:
                stream.set_display_rotation(*rotation)
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts = index if pts is None else pts[index]
                frame.time_base = Fraction(1, 25)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path.read_bytes()


def plain(data: bytes) -> list[tuple[int, int | None, Fraction]]:
    """Index, pts and time base of each frame by the loop of PyAV's first example."""
    with av.open(BytesIO(data)) as container:
        return [
            (index, frame.pts, Fraction(frame.time_base.numerator, frame.time_base.denominator))
            for index, frame in enumerate(container.decode(video=0))
            if frame.time_base is not None
        ]


def rgb(data: bytes) -> list[Pixels]:
    """The frames at full size in RGB."""
    with av.open(BytesIO(data)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


async def send(stream: DecodedStream, data: bytes, chunk: int = 4096) -> None:
    for start in range(0, len(data), chunk):
        await stream.feed(data[start : start + chunk])
    await stream.end_of_input()


async def decode(
    pool: DecoderPool,
    data: bytes,
    request: StreamRequest | None = None,
    layout: Layout | None = None,
    chunk: int = 4096,
) -> Decoded:
    """Send a video, take all frames."""
    async with await pool.open(request or StreamRequest(), Target(layout or Layout(64, 64), 0)) as stream:
        upload = asyncio.create_task(send(stream, data, chunk))
        frames, pixels = [], []
        async for frame in stream:
            frames.append(frame)
            pixels.append(frame.pixels.copy())
            frame.release()
        await upload
        return Decoded(await stream.started(), stream.summary, frames, pixels)


class _Silent:
    def serve(self, *, wait: bool) -> None:
        """The server says nothing."""


@contextmanager
def opened(data: bytes, settings: DecoderSettings | None = None, **options: Any) -> Iterator[Decoding]:
    """An MP4 in a file, opened in this process as a decoder opens it."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        link: Any = _Silent()
        yield Decoding("mov", Spooled(link, file.fileno()), settings or DecoderSettings(), **options)


def workers() -> list[psutil.Process]:
    """The decoder processes of this process that run."""
    found = []
    for child in psutil.Process().children():
        if "inference_server.video.nursery" in child.cmdline():
            found += child.children()
    return found


def nursery() -> psutil.Process | None:
    """The process that decoders of this process are forked from, if it is there."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "inference_server.video.nursery" in child.cmdline():
                return child
    return None


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """What the tests share, since they cannot import this file."""
    shared = (scene, encode, plain, rgb, send, decode, opened, workers, nursery)
    return SimpleNamespace(**{function.__name__: function for function in shared})


@pytest.fixture(scope="session")
def video() -> bytes:
    """30 frames of 160 x 96 as a user would send them: H.264 in MP4, index first."""
    return encode(options={"movflags": "faststart"})


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
async def pool(spool: Path) -> AsyncIterator[DecoderPool]:
    async with DecoderPool(DecoderSettings(spool_folder=spool)) as decoders:
        yield decoders
    assert not any(spool.iterdir())


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    assert workers() == []
