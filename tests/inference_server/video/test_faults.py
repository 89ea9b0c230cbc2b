"""Decoders that die, hang or lie, and servers that die: nobody else notices, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from inference_server.detection import Layout
from inference_server.errors import DecoderFailed, VideoLimitExceeded
from inference_server.video import DecodedStream, DecoderPool, DecoderSettings, StreamRequest, Target

TARGET = Target(Layout(48, 48), 0)


async def begin(pool: DecoderPool, video: bytes) -> tuple[DecodedStream, Any]:
    """A stream that has been fed half of the video and waits for the rest."""
    stream = await pool.open(StreamRequest(), TARGET)
    await stream.feed(video[: len(video) // 2])
    await stream.retarget(Target(TARGET.layout, 1))  # answered, so the process is there
    return stream, aiter(stream)


async def drain(frames: Any) -> int:
    count = 0
    async for frame in frames:
        frame.release()
        count += 1
    return count


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
async def test_a_decoder_that_dies_ends_its_own_stream(
    tools: Any, pool: DecoderPool, video: bytes, number: signal.Signals, reason: str
) -> None:
    stream, frames = await begin(pool, video)
    (victim,) = tools.workers()
    other, other_frames = await begin(pool, video)
    async with stream, other:
        victim.send_signal(number)
        with pytest.raises(DecoderFailed, match=f"it was killed by {reason}"):
            await drain(frames)

        await stream.feed(b"more" * 1000)  # neither raises nor blocks
        await tools.send(other, video[len(video) // 2 :])
        assert await drain(other_frames) == 30


@pytest.fixture
async def patience(pool: DecoderPool, video: bytes) -> float:
    """How many seconds a decoder that is well always answers in here: many times what it takes to begin with one."""
    taken = 0.0
    for _ in range(2):  # the first one waits for FFmpeg to be loaded, too
        began = time.perf_counter()
        stream, _ = await begin(pool, video)
        taken = time.perf_counter() - began
        await stream.close()
    return min(max(0.5, round(20 * taken, 1)), 8)


async def test_a_decoder_that_hangs_is_killed(tools: Any, spool: Path, video: bytes, patience: float) -> None:
    async with DecoderPool(DecoderSettings(spool_folder=spool, decode_timeout_seconds=patience)) as pool:
        stream, frames = await begin(pool, video)
        async with stream:
            (victim,) = tools.workers()
            victim.suspend()
            with pytest.raises(DecoderFailed, match=rf"did not answer for {patience:g} s \(decode_timeout_seconds\)"):
                await drain(frames)
            psutil.wait_procs([victim], timeout=30)
            assert not victim.is_running()


async def test_a_decoder_that_only_waits_is_left_alone(tools: Any, spool: Path, video: bytes, patience: float) -> None:
    async with DecoderPool(DecoderSettings(spool_folder=spool, decode_timeout_seconds=patience)) as pool:
        stream, frames = await begin(pool, video)
        async with stream:
            await asyncio.sleep(2.4 * patience)
            await tools.send(stream, video[len(video) // 2 :])
            assert await drain(frames) == 30


async def test_a_decoder_that_needs_too_much_memory_is_told_apart(tools: Any, spool: Path) -> None:
    pictures = [np.full((4096, 4096, 3), 20 * i, np.uint8) for i in range(6)]
    data = tools.encode("mpegts", pictures=pictures, codec_options={"preset": "ultrafast"})
    async with DecoderPool(DecoderSettings(spool_folder=spool, memory_limit_bytes=64 * 1024 * 1024)) as pool:
        with pytest.raises(VideoLimitExceeded, match="memory_limit_bytes"):
            await tools.decode(pool, data)


async def test_closing_a_stream_frees_its_process(tools: Any, pool: DecoderPool, video: bytes) -> None:
    stream, _ = await begin(pool, video)
    (process,) = tools.workers()
    await stream.close()
    assert not process.is_running()
    await stream.close()  # once more is nothing


async def test_cancelling_a_blocked_upload_and_closing_works(tools: Any, pool: DecoderPool) -> None:
    async with await pool.open(StreamRequest(), TARGET) as stream:
        data = tools.encode("mpegts", count=60, size=(640, 480), codec_options={"crf": "1"})
        upload = asyncio.create_task(tools.send(stream, data))
        await stream.started()
        (process,) = tools.workers()
        process.suspend()
    await upload  # it ends with the stream, since nobody is left to read
    assert not process.is_running()


async def test_a_stream_closed_before_its_process_exists(tools: Any, spool: Path) -> None:
    async with DecoderPool(DecoderSettings(spool_folder=spool)) as pool:
        async with await pool.open(StreamRequest(), TARGET):
            pass
        assert tools.workers() == []


async def test_when_the_nursery_dies_its_decoders_do_and_the_next_stream_gets_another(
    tools: Any, pool: DecoderPool, video: bytes
) -> None:
    stream, frames = await begin(pool, video)
    async with stream:
        (worker,) = tools.workers()
        nursery = worker.parent()
        assert nursery is not None
        nursery.kill()
        with pytest.raises(DecoderFailed):
            await drain(frames)
        psutil.wait_procs([worker], timeout=5)
        assert not worker.is_running()
    assert len((await tools.decode(pool, video)).frames) == 30


async def test_frames_stay_readable_when_the_stream_is_gone(tools: Any, pool: DecoderPool, video: bytes) -> None:
    stream, frames = await begin(pool, video)
    await tools.send(stream, video[len(video) // 2 :])
    frame = await anext(frames)
    before = frame.pixels.copy()
    await stream.close()
    assert (frame.pixels == before).all()
    frame.release()


async def test_nothing_grows_with_the_number_of_streams(tools: Any, pool: DecoderPool, video: bytes) -> None:
    await tools.decode(pool, video)
    (nursery,) = [p for p in psutil.Process().children() if "inference_server.video.nursery" in p.cmdline()]
    before = psutil.Process().num_fds(), nursery.num_fds()
    for _ in range(10):
        await tools.decode(pool, video)
    assert (psutil.Process().num_fds(), nursery.num_fds()) == before


async def test_a_decoder_has_no_grpc_and_no_onnxruntime_and_the_server_no_av(spool: Path) -> None:
    modules = "import sys; print(sorted({name.split('.')[0] for name in sys.modules}))"
    decoder = subprocess.check_output(
        [sys.executable, "-c", f"import inference_server.video.nursery; {modules}"], text=True
    )
    server = subprocess.check_output([sys.executable, "-c", f"import inference_server.video; {modules}"], text=True)
    assert "'av'" in decoder
    assert not {"'grpc'", "'onnxruntime'", "'onnx'", "'google'"} & set(decoder.strip("[]\n").split(", "))
    assert "'av'" not in server


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_a_decoder_is_fenced_in(tools: Any, pool: DecoderPool, video: bytes) -> None:
    stream, _ = await begin(pool, video)
    async with stream:
        (worker,) = tools.workers()
        status = Path(f"/proc/{worker.pid}/status").read_text()
        limits = {
            line[:25].strip(): line[26:].split()[0]
            for line in Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
        }
        assert "NoNewPrivs:\t1" in status
        assert limits["Max core file size"] == "0"
        assert limits["Max open files"] == "64"
        assert int(limits["Max address space"]) < 4 * 1024**3
        assert "Threads:\t1" in status


SERVER = """
import asyncio, sys
from inference_server.detection import Layout
from inference_server.video import *

async def main():
    async with DecoderPool() as pool:
        streams = [await pool.open(StreamRequest(), Target(Layout(32, 32), 0)) for _ in range(3)]
        head = sys.stdin.buffer.read(500)
        for stream in streams:
            await stream.feed(head)
            await stream.retarget(Target(Layout(32, 32), 1))
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_server_that_is_killed_leaves_nothing(video: bytes) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"HOME": "/"}
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(video[:500])
            server.stdin.flush()
            assert server.stdout.readline() == b"ready\n"
            family = psutil.Process(server.pid).children(recursive=True)
            assert len(family) == 4
        finally:
            server.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


async def test_a_decoder_does_not_grow_with_the_video(tools: Any, pool: DecoderPool) -> None:
    pictures = [np.full((480, 640, 3), index % 250, np.uint8) for index in range(300)]
    data = tools.encode(pictures=pictures, options={"movflags": "faststart"}, codec_options={"preset": "ultrafast"})
    async with await pool.open(StreamRequest(), TARGET) as stream:
        upload = asyncio.create_task(tools.send(stream, data))
        sizes = []
        async for frame in stream:
            if frame.frame_index in (50, 290):
                sizes.append(tools.workers()[0].memory_info().rss)
            frame.release()
        await upload
    assert sizes[1] - sizes[0] < 30 * 1024 * 1024, "240 frames take 110 MB"
