"""Live video over RTSP from a real server: GStreamer's, which is killed, stopped and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from demo import scene

from inference_server.errors import SourceNotFound, SourceRefused
from inference_server.video import StreamRequest

CAMERA = [Path("/usr/bin/python3"), Path(__file__).with_name("gst_camera.py")]


def missing() -> str:
    if not CAMERA[0].exists():
        return "there is no system Python"
    check = subprocess.run([*CAMERA, "--check"], capture_output=True, text=True, check=False, timeout=60)
    return check.stderr.strip().splitlines()[-1] if check.returncode else ""


@pytest.fixture(scope="module", autouse=True)
def gstreamer() -> None:
    if reason := missing():
        pytest.skip(f"GStreamer's RTSP server is not here: {reason}")


class Camera:
    """The server in a process of its own, at the same port through all its lives."""

    def __init__(self, recording: Path, access: str = "open") -> None:
        self._arguments = [recording, access]
        self.port = "0"
        self.start()

    def start(self) -> None:
        command = [*CAMERA, self.port, *self._arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().strip()
        assert self.port

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def url(self, stream: str, user: str = "") -> str:
        return f"rtsp://{user}127.0.0.1:{self.port}/{stream}"


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("recording") / "scene.mp4"
    scene.encode(path, frames=30, fps=30, size=(320, 180))
    return path


@pytest.fixture(scope="module")
def camera(recording: Path, gstreamer: None) -> Iterator[Camera]:
    camera = Camera(recording)
    yield camera
    camera.kill()


@pytest.mark.parametrize(("stream", "codec"), [("h264", "h264"), ("h265", "hevc"), ("jpeg", "mjpeg"), ("vp8", "vp8")])
async def test_what_cameras_send_is_read(camera, read_source, stream, codec):
    seen = await read_source(camera.url(stream), StreamRequest(max_frames=20))
    assert (seen.info.container, seen.info.codec) == ("rtsp", codec)
    assert (seen.info.width, seen.info.height) == (160, 96)
    assert seen.indices == list(range(20))
    assert (seen.gaps, seen.summary.corrupt_packets) == ([], 0)
    times = [frame.time_seconds for frame in seen.frames]
    steps = [(later - earlier) * 25 for earlier, later in pairwise(times)]
    assert all(abs(step - max(1, round(step))) < 0.2 for step in steps)  # a busy machine may leave pictures out


async def test_the_camera_tells_the_time(camera, read_source):
    class ToldError(Exception):
        pass

    told = []

    async def wait_for_the_report(stream, frame):
        told.append((frame.wall_clock, time.time()))
        if frame.wall_clock.camera:
            raise ToldError

    with pytest.raises(ToldError):
        await asyncio.wait_for(read_source(camera.url("h264"), on_frame=wait_for_the_report), 60)
    clock, now = told[-1]
    assert now - 10 < clock.seconds < now + 1  # the same machine's clock, and a picture that was on its way
    assert not told[0][0].camera or len(told) == 1


async def test_a_recording_has_an_end(camera, read_source):
    seen = await read_source(camera.url("recording"))
    assert seen.indices == list(range(30))
    assert seen.gaps == []
    assert {frame.wall_clock for frame in seen.frames} == {None}
    assert [round(frame.time_seconds * 30) for frame in seen.frames] == list(range(30))


async def test_a_camera_that_is_killed_and_comes_back_goes_on_after_a_gap(recording, read_source):
    camera = Camera(recording)
    try:

        async def strike(stream, frame):
            if frame.frame_index == 10:
                await asyncio.to_thread(camera.kill)
                await asyncio.to_thread(camera.start)

        seen = await read_source(camera.url("h264"), StreamRequest(max_frames=40), on_frame=strike)
    finally:
        camera.kill()
    assert seen.summary.gaps == 1
    assert seen.gaps[-1].resumed
    assert len(seen.frames) == 40
    assert seen.indices == list(range(seen.indices[-1] + 1))
    times = [frame.time_seconds for frame in seen.frames]
    assert times == sorted(times)


async def test_a_camera_that_hangs_is_a_gap(recording, read_source):
    camera = Camera(recording)
    try:

        async def hang(stream, frame):
            if frame.frame_index == 10:
                os.kill(camera.process.pid, signal.SIGSTOP)

        def wake(gap):
            os.kill(camera.process.pid, signal.SIGCONT)

        request = StreamRequest(max_frames=40)
        seen = await read_source(camera.url("h264"), request, on_frame=hang, on_gap=wake, read_seconds=2)
    finally:
        camera.kill()
    assert "stalled" in seen.gaps[0].reason
    assert seen.gaps[-1].resumed
    assert seen.indices == list(range(40))


@pytest.mark.parametrize("method", ["BASIC", "DIGEST"])
async def test_a_password_is_sent_as_the_camera_asks(recording, read_source, method):
    camera = Camera(recording, method)
    try:
        seen = await read_source(camera.url("jpeg", "me:secret@"), StreamRequest(max_frames=3))
        assert seen.indices == [0, 1, 2]
        with pytest.raises(SourceRefused, match="401: it does not take this user and password"):
            await read_source(camera.url("jpeg", "me:wrong@"))
        with pytest.raises(SourceRefused, match="401: it wants a user and a password"):
            await read_source(camera.url("jpeg"))
    finally:
        camera.kill()


async def test_what_is_not_there_says_so(camera, read_source):
    with pytest.raises(SourceNotFound, match="404"):
        await read_source(camera.url("nothing"))
    with pytest.raises(SourceRefused, match="expected pictures in H264, H265, JPEG, MP4V-ES, VP8, got none"):
        await read_source(camera.url("sound"))


async def test_only_the_newest_frames_are_delivered_if_so_wanted(camera, read_source):
    async def dawdle(stream, frame):
        await asyncio.sleep(0.2)

    seen = await read_source(camera.url("h264"), StreamRequest(latest=True, max_frames=8), on_frame=dawdle)
    assert len(seen.frames) == 8
    assert seen.summary.frames_dropped > 0
