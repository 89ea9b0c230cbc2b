"""Live video over RTSP from a server that behaves as badly as servers do."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator

import pytest

from inference_server.errors import SourceNotAllowed, SourceNotFound, SourceRefused, SourceUnavailable
from inference_server.video import StreamRequest
from tests.inference_server.sources.rtsp_server import Plan, RtspServer, encode

COUNT = 20


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return encode(COUNT)


@pytest.fixture
async def camera() -> AsyncIterator[RtspServer]:
    camera = RtspServer()
    await camera.start()
    yield camera
    await camera.stop()


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def recording(pictures):
    """A plan of all the pictures, then the end."""
    return Plan(pictures, "goodbye", range="npt=0-0.8")


async def test_timestamps_that_wrap_and_fragments_give_every_picture(camera, recording, read_source):
    camera.plans = [recording]
    seen = await read_source(camera.url)
    assert seen.indices == list(range(COUNT))
    assert [frame.pts for frame in seen.frames] == [index * 40_000 for index in range(COUNT)]
    assert {frame.time_base for frame in seen.frames} == {(1, 1_000_000)}
    assert (seen.gaps, seen.summary.corrupt_packets) == ([], 0)
    assert camera.methods == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY", "TEARDOWN"]
    assert "/live?token=secret/track1 RTSP" in camera.requests[2]


@pytest.mark.parametrize("how", ["close", "reset", "stall", "trickle", "goodbye", "garbage"])
async def test_a_camera_that_breaks_off_goes_on_after_a_gap(camera, pictures, read_source, how):
    camera.plans = [Plan(pictures, how), Plan(pictures, "stall")]
    seen = await read_source(camera.url, StreamRequest(max_frames=COUNT + 5), read_seconds=1.0)
    assert (seen.summary.gaps, seen.gaps[-1].resumed) == (1, True)
    assert seen.indices == list(range(COUNT + 5))
    times = [frame.time_seconds for frame in seen.frames]
    assert times == sorted(times)
    expected = {"close": "ended", "reset": "broke", "garbage": "does not speak RTSP", "goodbye": "ended the stream"}
    assert expected.get(how, "stalled") in seen.gaps[0].reason


async def test_a_recording_that_breaks_off_is_not_begun_again(camera, pictures, read_source):
    camera.plans = [Plan(pictures, "close", range="npt=0-9")]
    with pytest.raises(SourceUnavailable, match="broke off: the connection ended"):
        await read_source(camera.url)
    assert camera.methods.count("PLAY") == 1


async def test_the_clock_of_the_camera_is_told(camera, pictures, read_source):
    taken = time.time() - 1000
    camera.plans = [Plan(pictures, "stall", report=taken)]
    seen = await read_source(camera.url, StreamRequest(max_frames=COUNT - 2))
    told = [frame for frame in seen.frames if frame.wall_clock.camera]
    assert told
    assert all(abs(frame.wall_clock.seconds - taken - frame.frame_index * 0.04) < 1e-3 for frame in told)


async def test_lost_packets_cost_pictures_but_no_stream(camera, pictures, read_source):
    camera.plans = [Plan(pictures, "goodbye", range="npt=0-9", drop=frozenset({3, 30, 31, 60}))]
    seen = await read_source(camera.url)
    assert COUNT - 4 <= len(seen.frames) <= COUNT


async def test_a_camera_that_is_in_the_middle_begins_with_a_key_picture(camera, pictures, read_source):
    camera.plans = [Plan(pictures[3:], "goodbye", range="npt=0-9")]
    seen = await read_source(camera.url)
    assert len(seen.frames) == COUNT - 10
    assert seen.summary.corrupt_packets == 0
    assert seen.frames[0].pts == 0


@pytest.mark.parametrize(
    ("method", "answer", "error", "match"),
    [
        ("DESCRIBE", "RTSP/1.0 404 Not Found", SourceNotFound, "answers 404"),
        ("DESCRIBE", "RTSP/1.0 403 Forbidden", SourceRefused, "answers 403"),
        ("DESCRIBE", "RTSP/1.0 503 Busy", SourceUnavailable, "answers 503"),
        ("SETUP", "RTSP/1.0 461 Unsupported Transport", SourceRefused, "answers 461"),
        ("PLAY", "RTSP/1.0 453 Not Enough Bandwidth", SourceUnavailable, "answers 453"),
        ("DESCRIBE", "HTTP/1.1 200 OK", SourceUnavailable, "does not speak RTSP"),
        ("OPTIONS", "A" * 20_000, SourceUnavailable, "a head without an end"),
        ("DESCRIBE", "RTSP/1.0 200 OK\r\nContent-Length: 99999999", SourceUnavailable, "a body that is too long"),
        ("DESCRIBE", "RTSP/1.0 200 OK\r\nContent-Length: 0", SourceRefused, "expected pictures in H264, .*, got none"),
    ],
)
async def test_answers_that_give_no_video_say_which(camera, recording, read_source, method, answer, error, match):
    recording.answers = {method: answer}
    camera.plans = [recording]
    with pytest.raises(error, match=match) as raised:
        await read_source(camera.url)
    assert "secret" not in str(raised.value)


async def test_other_encodings_are_named(camera, recording, read_source):
    recording.encoding = "H261"
    camera.plans = [recording]
    with pytest.raises(SourceRefused, match=r"expected pictures in H264, .*, got H261"):
        await read_source(camera.url)


@pytest.mark.parametrize("method", ["OPTIONS", "PLAY"])
async def test_a_server_that_does_not_answer_is_given_up(camera, recording, read_source, method):
    recording.answers = {method: "RTSP/1.0 100 Continue"}
    camera.plans = [recording]
    with pytest.raises(SourceUnavailable, match=r"did not answer within 0\.5 s"):
        await read_source(camera.url, connect_seconds=0.5)


async def test_a_redirect_is_followed_where_that_is_allowed(camera, recording, read_source):
    moved = "RTSP/1.0 302 Moved\r\nLocation: rtsp://127.0.0.1:{}/elsewhere"
    camera.plans = [Plan(answers={"DESCRIBE": moved.format(camera.port)}), recording]
    assert len((await read_source(camera.url.replace("//", "//me:secret@"))).frames) == COUNT
    assert f"DESCRIBE rtsp://127.0.0.1:{camera.port}/elsewhere" in camera.requests[3]
    for forbidden in ("rtsp://127.0.0.2/", "rtsp://169.254.169.254/", "http://127.0.0.1/", "file:///etc/passwd"):
        camera.plans = [Plan(answers={"DESCRIBE": f"RTSP/1.0 302 Moved\r\nLocation: {forbidden}"})]
        with pytest.raises(SourceNotAllowed):
            await read_source(camera.url)
    camera.plans = [Plan(answers={"DESCRIBE": moved.format(camera.port)})]
    with pytest.raises(SourceRefused, match="more than 5 times"):
        await read_source(camera.url)


async def test_a_password_goes_only_to_who_asks_and_never_in_the_address(camera, recording, read_source):
    challenge = 'RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm="cam", nonce="abc", stale=FALSE'
    recording.answers = {"DESCRIBE": challenge}
    camera.plans = [recording]
    with pytest.raises(SourceRefused, match="does not take this user and password"):
        await read_source(camera.url.replace("//", "//me:pass%40word@"))
    first, second = (request for request in camera.requests if request.startswith("DESCRIBE"))
    assert "Authorization" not in first
    target = f"rtsp://127.0.0.1:{camera.port}/live?token=secret"
    secret, request = (md5(text) for text in ("me:cam:pass@word", f"DESCRIBE:{target}"))
    expected = md5(f"{secret}:abc:{request}")
    assert f'response="{expected}"' in second
    assert "pass" not in "".join(camera.requests)


async def test_a_session_is_kept_alive_while_its_reader_is_slow(camera, pictures, read_source):
    camera.plans = [Plan(pictures, "stall", timeout=2)]

    async def wait(stream, frame):
        if frame.frame_index == 5:
            while "GET_PARAMETER" not in camera.methods:
                await asyncio.sleep(0.05)

    await asyncio.wait_for(read_source(camera.url, StreamRequest(max_frames=10), on_frame=wait), 30)
    ping = next(request for request in camera.requests if request.startswith("GET_PARAMETER"))
    assert re.search(r"^Session: 77aa\r$", ping, re.MULTILINE)


async def test_a_session_that_the_camera_has_forgotten_is_a_gap(camera, pictures, read_source):
    forgotten = {"GET_PARAMETER": "RTSP/1.0 454 Session Not Found"}
    camera.plans = [Plan(pictures, "stall", forgotten, timeout=2), Plan(pictures, "stall")]
    seen = await read_source(camera.url, StreamRequest(max_frames=COUNT + 5), read_seconds=20)
    assert [gap.reason for gap in seen.gaps] == 2 * ["the host has ended the session"]
