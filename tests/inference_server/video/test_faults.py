"""Decoders that die, hang or lie, and servers that die: nobody else notices, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
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
from inference_server.video import DecodedStream, DecoderPool, DecoderSettings, StreamRequest, Target, processes

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
            with pytest.raises(VideoLimitExceeded, match=rf"^decode_timeout_seconds: .* not answer for {patience:g} s"):
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


async def test_a_frame_has_only_so_much_of_the_processor(tools: Any, spool: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 2048, 2048, 3), np.uint8)
    data = tools.encode("mpegts", pictures=list(noise), codec_options={"preset": "ultrafast", "crf": "10"})
    async with DecoderPool(DecoderSettings(spool_folder=spool, max_frame_cpu_seconds=0.02)) as pool:
        with pytest.raises(VideoLimitExceeded, match=r"^max_frame_cpu_seconds: .* more than 0\.02 s of the processor"):
            await tools.decode(pool, data)


def many_tags(count: int) -> bytes:
    """Matroska on whose tags FFmpeg spends time that grows with the cube of their number."""

    def element(kind: str, *content: bytes) -> bytes:
        body = b"".join(content)
        return bytes.fromhex(kind) + (len(body) | 1 << 56).to_bytes(8, "big") + body

    names = (element("67C8", element("45A3", b"T%d" % number), element("4487", b"x")) for number in range(count))
    tags = element("1254C367", *(element("7373", name) for name in names))
    size = element("E0", element("B0", b"\x40"), element("BA", b"\x30"))
    track = element(
        "AE", element("D7", b"\1"), element("73C5", b"\1"), element("83", b"\1"), element("86", b"V_VP8"), size
    )
    block = element("1F43B675", element("E7", b"\0"), element("A3", b"\x81\0\0\x80", bytes(16)))
    head = element("1A45DFA3", element("4282", b"matroska"), element("4287", b"\4"), element("4285", b"\2"))
    return head + element("18538067", tags, element("1654AE6B", track), block)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_frame_cpu_seconds": 0.3}, r"^max_frame_cpu_seconds: .* more than 0\.3 s of the processor"),
        (
            {"decode_timeout_seconds": 0.5, "max_frame_cpu_seconds": 3600},
            r"^decode_timeout_seconds: .* did not answer for 0\.5 s$",
        ),
    ],
)
async def test_a_video_that_keeps_its_decoder_busy_before_the_first_frame_is_over_a_limit(
    tools: Any, spool: Path, limits: dict[str, float], reason: str
) -> None:
    async with DecoderPool(DecoderSettings(spool_folder=spool, **limits)) as pool:
        with pytest.raises(VideoLimitExceeded, match=reason):
            await tools.decode(pool, many_tags(3000))


async def test_the_next_frame_has_its_own_time(tools: Any, spool: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 240, 320, 3), np.uint8)
    data = tools.encode("mpegts", pictures=[*noise] * 80, codec_options={"preset": "ultrafast", "crf": "10"})
    async with DecoderPool(DecoderSettings(spool_folder=spool, max_frame_cpu_seconds=0.15)) as pool:
        async with await pool.open(StreamRequest(), TARGET) as stream:
            upload = asyncio.create_task(tools.send(stream, data))
            async for frame in stream:
                if frame.frame_index == 150:
                    used = sum(tools.workers()[0].cpu_times()[:2])
                frame.release()
            await upload
        assert stream.summary.frames_decoded == 160
        assert used > 0.15, "all frames together need more than one may"


async def test_memory_goes_with_a_decoder_that_was_killed(tools: Any, pool: DecoderPool, video: bytes) -> None:
    stream, frames = await begin(pool, video)
    await tools.send(stream, video[len(video) // 2 :])
    (await anext(frames)).release()
    assert "videoai-frames" in Path("/proc/self/maps").read_text()
    tools.workers()[0].kill()
    with pytest.raises(DecoderFailed):
        await drain(frames)
    await stream.close()
    del stream, frames  # with the error, whose traceback leads to frames
    gc.collect()
    assert "videoai-frames" not in Path("/proc/self/maps").read_text()


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


async def test_a_process_to_fork_from_is_there_before_the_first_stream_and_after_it_died(
    tools: Any, pool: DecoderPool, video: bytes
) -> None:
    async with asyncio.timeout(60):
        while (first := tools.nursery()) is None:  # its program is not yet there in the moment after the fork
            await asyncio.sleep(0.01)
    assert len((await tools.decode(pool, video)).frames) == 30
    assert tools.nursery() == first, "the stream needed no other"
    first.kill()
    psutil.wait_procs([first], timeout=10)
    async with asyncio.timeout(60):
        while (second := tools.nursery()) in {None, first}:
            await asyncio.sleep(0.01)
    async with await pool.open(StreamRequest(), TARGET) as stream:
        await stream.feed(video)
        await stream.started()
        assert tools.workers()[0].parent() == second


async def test_streams_asked_for_while_the_nursery_dies_come_from_the_next(
    tools: Any, pool: DecoderPool, video: bytes
) -> None:
    await tools.decode(pool, video)
    tools.nursery().suspend()  # so that it takes none of these
    asked = [asyncio.create_task(tools.decode(pool, video)) for _ in range(3)]
    await asyncio.sleep(0)
    tools.nursery().kill()
    assert [len(decoded.frames) for decoded in await asyncio.gather(*asked)] == [30] * 3


async def test_a_nursery_that_was_stopped_is_continued(tools: Any, pool: DecoderPool, video: bytes) -> None:
    stream, frames = await begin(pool, video)
    async with stream:
        nursery = tools.nursery()
        nursery.suspend()
        assert len((await tools.decode(pool, video)).frames) == 30
        assert tools.nursery() == nursery
        await tools.send(stream, video[len(video) // 2 :])
        assert await drain(frames) == 30, "those before it go on"


async def test_a_nursery_that_hangs_is_replaced(
    tools: Any, spool: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = (
        "import socket, sys, time; from inference_server.video import wire;"
        "socket.socket(fileno=int(sys.argv[1])).sendall(wire.pack({'type': 'ready', 'layers': []})); time.sleep(1000)"
    )
    sound = processes._command
    monkeypatch.setattr(processes, "_command", lambda *numbers: [sys.executable, "-c", hangs, *map(str, numbers)])
    ready: list[Any] = []
    settings = DecoderSettings(spool_folder=spool, decode_timeout_seconds=5)
    async with DecoderPool(settings, ready.append) as pool:
        async with asyncio.timeout(60):
            while not ready:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(processes, "_command", sound)
        assert len((await tools.decode(pool, video)).frames) == 30


async def test_nurseries_that_do_not_start_are_given_up(
    tools: Any, spool: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        processes, "_command", lambda *numbers: [sys.executable, "-c", "raise SystemExit(1)", *map(str, numbers)]
    )
    async with DecoderPool(DecoderSettings(spool_folder=spool)) as pool:
        for _ in range(2):
            with pytest.raises(DecoderFailed, match="does not start"):
                await tools.decode(pool, video)


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


@pytest.mark.parametrize("stopped", ["nothing", "server", "nursery", "workers", "all"])
def test_a_server_that_is_killed_leaves_nothing(video: bytes, stopped: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"HOME": "/"}
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(video[:500])
            server.stdin.flush()
            assert server.stdout.readline() == b"ready\n"
            parent = psutil.Process(server.pid)
            nursery, workers = parent.children(), parent.children()[0].children()
            family = [*nursery, *workers]
            assert len(family) == 4
            members = {"nothing": [], "server": [parent], "nursery": nursery, "workers": workers}
            for process in members.get(stopped, [parent, *family]):
                process.suspend()
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
