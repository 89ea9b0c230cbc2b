"""Live video over HTTP from a server that behaves as badly as servers do."""

from __future__ import annotations

import asyncio
import io
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from inference_server.detection import Layout
from inference_server.errors import (
    CorruptVideo,
    InvalidField,
    SourceNotAllowed,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
)
from inference_server.video import StreamRequest, Target

COUNT = 30


@pytest.fixture(scope="module")
def ts() -> bytes:
    """30 frames of H.264 in a transport stream, a key frame every ten."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("libx264", rate=25, options={"g": "10", "bf": "0", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for index in range(COUNT):
            noise = np.random.default_rng(index).integers(0, 255, (96, 160, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def going_on(indices):
    return list(range(indices[0], indices[0] + len(indices)))


def check_continuity(seen):
    """Indices go on without a hole, times never go back, gaps come where they were."""
    assert seen.indices == going_on(seen.indices)
    times = [frame.time_seconds for frame in seen.frames]
    assert times == sorted(times)
    assert all(frame.wall_clock and not frame.wall_clock.camera for frame in seen.frames)


async def test_a_body_that_is_complete_is_an_end(server, http, ts, read_source):
    server.scripts = [http.whole(ts)]
    before = time.time()
    seen = await read_source(server.url)
    assert seen.indices == list(range(COUNT))
    assert seen.gaps == []
    assert (seen.summary.frames_decoded, seen.summary.bytes_received) == (COUNT, len(ts))
    check_continuity(seen)
    assert before <= seen.frames[0].wall_clock.seconds <= time.time()


async def test_a_file_of_known_length_is_no_live_source(server, ts, read_source):
    server.scripts = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ts) + ts]
    seen = await read_source(server.url)
    assert seen.indices == list(range(COUNT))
    assert {frame.wall_clock for frame in seen.frames} == {None}
    # To begin it again would answer the same frames twice.
    server.scripts = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(ts) * 2) + ts]
    with pytest.raises(SourceUnavailable, match=f"broke off.*after {len(ts)} of {2 * len(ts)} bytes"):
        await read_source(server.url)


@pytest.mark.parametrize("how", ["closes", "resets", "stalls", "trickles"])
async def test_a_source_that_breaks_off_goes_on_after_a_gap(server, http, ts, read_source, how):
    async def break_off(writer):
        writer.write(http.head + http.chunk(ts[: len(ts) * 2 // 3]))
        await writer.drain()
        if how == "closes":
            return
        await asyncio.sleep(0.3)  # a reset overtakes what is on its way
        if how == "resets":
            http.reset(writer)
        while how in ("stalls", "trickles"):
            await asyncio.sleep(0.1)
            if how == "trickles":
                writer.write(http.chunk(b"\x47"))
                await writer.drain()

    server.scripts = [break_off, http.whole(ts)]
    seen = await read_source(server.url, read_seconds=1.0)
    first = len(seen.frames) - COUNT
    assert 10 <= first < COUNT
    check_continuity(seen)
    lost, *_, back = seen.gaps
    assert seen.events.index(lost) >= first
    assert seen.events[seen.events.index(back) + 1] is seen.frames[first]
    assert (lost.index, lost.attempts, lost.resumed, lost.seconds) == (0, 0, False, 0.0)
    assert (back.index, back.attempts, back.resumed) == (0, 1, True)
    assert back.seconds > 0
    assert {"stalls": "stalled", "trickles": "stalled"}.get(how, "connection") in lost.reason
    assert (seen.summary.gaps, seen.summary.gap_seconds) == (1, back.seconds)
    assert seen.summary.frames_decoded == len(seen.frames)
    assert seen.frames[first].time_seconds > seen.frames[first - 1].time_seconds + 0.2  # the pause is longer


async def test_failed_attempts_are_told_and_the_next_gap_begins_anew(server, http, ts, read_source):
    cut = http.head + http.chunk(ts[: len(ts) * 2 // 3])
    refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    server.scripts = [cut, refused, b"", cut, http.whole(ts)]
    seen = await read_source(server.url)
    check_continuity(seen)
    told = [(gap.index, gap.attempts, gap.resumed) for gap in seen.gaps]
    assert told == [(0, 0, False), (0, 1, False), (0, 2, False), (0, 3, True), (1, 0, False), (1, 1, True)]
    assert "503" in seen.gaps[1].reason
    assert seen.summary.gaps == 2


async def test_limits_count_over_all_connections(server, http, ts, read_source):
    cut = http.head + http.chunk(ts[: len(ts) * 2 // 3])
    server.scripts = [cut, http.whole(ts)]
    seen = await read_source(server.url, StreamRequest(stride=3, max_frames=12))
    assert seen.indices == list(range(0, 36, 3))
    assert len(server.requests) == 2


@pytest.mark.parametrize(("limit", "value"), [("max_reconnects", 2), ("max_reconnects", 0), ("give_up", 0.0)])
async def test_patience_has_an_end(server, http, ts, read_source, limit, value):
    server.scripts = [http.head + http.chunk(ts), b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]
    seen = SimpleNamespace(frames=[], events=[], summary=None)
    name = {"give_up": "give_up_seconds"}.get(limit, limit)
    with pytest.raises(SourceUnavailable, match=f"{name}: the source was lost"):
        await read_source(server.url, seen=seen, **{limit: value})
    assert len(seen.frames) >= COUNT - 1
    assert len(server.requests) == 1 + (value if limit == "max_reconnects" else 0)


async def test_a_redirect_is_checked_like_any_address(server, http, ts, read_source):
    def to(location):
        return b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location.encode()

    server.scripts = [to("/elsewhere"), http.whole(ts)]
    with_secret = server.url.replace("http://", "http://me:secret@")
    assert len((await read_source(with_secret)).frames) == COUNT
    assert all(b"Authorization: Basic bWU6c2VjcmV0" in request for request in server.requests)

    hosts = ("127.0.0.1", "cam.test")

    async def resolve(host, port):
        return ["127.0.0.1"]

    server.requests.clear()
    server.scripts = [to(f"http://cam.test:{server.port}/x"), http.whole(ts)]
    assert len((await read_source(with_secret, rules=hosts, resolve=resolve)).frames) == COUNT
    assert b"Authorization" in server.requests[0]
    assert b"Authorization" not in server.requests[1]

    for forbidden in ("http://127.0.0.2/", "http://169.254.169.254/latest", "file:///etc/passwd", "rtsp://127.0.0.1/"):
        server.scripts = [to(forbidden)]
        with pytest.raises(SourceNotAllowed):
            await read_source(server.url)
    server.scripts = [to("/again")]
    with pytest.raises(SourceRefused, match="redirects more than 5 times"):
        await read_source(server.url)


async def test_a_forbidden_redirect_in_a_gap_ends_the_stream(server, http, ts, read_source):
    server.scripts = [http.head + http.chunk(ts), b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n"]
    with pytest.raises(SourceNotAllowed):
        await read_source(server.url)
    assert len(server.requests) == 2


async def test_the_name_is_looked_up_once_and_the_connection_goes_to_that_address(server, http, ts, read_source):
    answers = [["10.9.8.7", "127.0.0.1"], ["127.0.0.2"]]
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return answers[min(len(asked), 2) - 1]

    server.scripts = [http.whole(ts)]
    url = f"http://cam.test:{server.port}/live.ts"
    seen = await read_source(url, rules=("cam.test", "127.0.0.1"), resolve=resolve)
    assert len(seen.frames) == COUNT
    assert asked == ["cam.test"]
    assert f"Host: cam.test:{server.port}".encode() in server.requests[0]
    with pytest.raises(SourceNotAllowed):  # another answer by now
        await read_source(url, rules=("cam.test", "127.0.0.1"), resolve=resolve)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", SourceRefused, "401"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", SourceNotFound, "404"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", SourceUnavailable, "503"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", SourceRefused, "204"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", SourceRefused, "compresses"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", SourceUnavailable, "does not speak HTTP"),
        (b"", SourceUnavailable, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n", CorruptVideo, ""),
    ],
)
async def test_what_answers_no_video_says_so(server, read_source, answer, error, says):
    server.scripts = [answer]
    url = server.url.replace("http://", "http://me:secret@") + "?token=secret"
    with pytest.raises((error, Exception)) as raised:
        await read_source(url)
    if error is not CorruptVideo:
        assert isinstance(raised.value, error)
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_waiting_for_an_answer_has_an_end(server, read_source):
    server.scripts = [lambda writer: asyncio.sleep(60)]
    with pytest.raises(SourceUnavailable, match=r"did not answer within 0\.5 s"):
        await read_source(server.url, connect_seconds=0.5)

    async def never(host, port):
        await asyncio.sleep(60)

    with pytest.raises(SourceUnavailable, match=r"0\.5 s"):
        await read_source("http://cam.test/", rules=("cam.test",), resolve=never, connect_seconds=0.5)


async def test_nobody_listening_says_so(server, read_source):
    await server.stop()
    with pytest.raises(SourceUnavailable, match=r"cannot be reached: .*refused"):
        await read_source(server.url)


async def test_latest_drops_what_a_slow_reader_leaves_and_every_frame_never_does(server, http, ts, read_source):
    async def slowly(stream, frame):
        await asyncio.sleep(0.1)

    async def at_its_pace(writer):
        writer.write(http.head)
        for start in range(0, len(ts), 4096):
            writer.write(http.chunk(ts[start : start + 4096]))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    server.scripts = [at_its_pace]
    latest = await read_source(server.url, StreamRequest(latest=True), on_frame=slowly)
    assert latest.indices == sorted(set(latest.indices))
    assert latest.summary.frames_dropped == COUNT - len(latest.frames) > 0
    assert latest.indices[-1] == COUNT - 1
    every = await read_source(server.url, on_frame=slowly)
    assert every.indices == list(range(COUNT))
    assert every.summary.frames_dropped == 0


async def test_a_swap_in_a_gap_counts_for_the_frames_after_it(server, http, ts, read_source):
    cut = http.head + http.chunk(ts[: len(ts) * 2 // 3])
    server.scripts = [cut, http.whole(ts)]
    swapped = []

    async def swap(stream, frame):
        if frame.frame_index == 5 and not swapped:
            swapped.append(asyncio.create_task(stream.retarget(Target(Layout(32, 32), 1))))

    seen = await read_source(server.url, on_frame=swap)
    await swapped[0]
    generations = [frame.target.generation for frame in seen.frames]
    assert generations == sorted(generations)
    assert set(generations[-COUNT:]) == {1}


async def test_a_live_source_cannot_be_resumed_by_timestamp(server, http, ts, read_source):
    server.scripts = [http.whole(ts)]
    with pytest.raises(InvalidField, match="resume_after_pts"):
        await read_source(server.url, StreamRequest(resume_after_pts=5))
