"""An RTSP server that behaves as badly as it is told, connection by connection."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

RATE, STEP = 90_000, 3600  # 25 pictures a second
SSRC = 0x1234


def encode(count: int) -> list[bytes]:
    """Pictures of H.264 with start codes, a key picture every ten."""
    pictures = []
    with av.open(io.BytesIO(), "w", format="h264") as output:
        options = {"g": "10", "bf": "0", "tune": "zerolatency", "x264-params": "scenecut=0"}
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for index in range(count):
            noise = np.random.default_rng(index).integers(0, 255, (96, 160, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            pictures += [bytes(packet) for packet in stream.encode(frame)]
        return pictures + [bytes(packet) for packet in stream.encode(None)]


def units(picture: bytes) -> list[bytes]:
    """Its units, without their start codes."""
    return [unit for unit in re.split(b"\0\0\0?\1", picture) if unit]


def rtp(payload: bytes, sequence: int, timestamp: int, *, marker: bool, payload_type: int = 96) -> bytes:
    second = payload_type | (0x80 if marker else 0)
    return struct.pack("!BBHII", 0x80, second, sequence % 2**16, timestamp % 2**32, SSRC) + payload


def report(now: float, timestamp: int) -> bytes:
    """A sender's report: that it is `now` at `timestamp`."""
    ntp = int((now + 2_208_988_800) * 2**32)
    return struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, ntp, timestamp % 2**32, 0, 0)


GOODBYE = struct.pack("!BBHI", 0x81, 203, 1, SSRC)


def fragments(unit: bytes, size: int = 500) -> Iterator[bytes]:
    """Payloads for a unit of H.264: itself, or fragments (FU-A)."""
    if len(unit) <= size:
        yield unit
        return
    body = unit[1:]
    for at in range(0, len(body), size):
        flags = (0x80 if at == 0 else 0) | (0x40 if at + size >= len(body) else 0)
        yield bytes((unit[0] & 0xE0 | 28, flags | unit[0] & 31)) + body[at : at + size]


def interleaved(channel: int, data: bytes) -> bytes:
    return b"$" + bytes((channel,)) + len(data).to_bytes(2, "big") + data


@dataclass
class Plan:
    """What one connection does. `answers`: by method, first line and headers instead of the usual ones.

    `then`: after the pictures; one of close, reset, stall, trickle, goodbye, garbage, end_session.
    """

    pictures: list[bytes] = field(default_factory=list)
    then: str = "close"
    answers: dict[str, str] = field(default_factory=dict)
    range: str = "npt=now-"
    encoding: str = "H264"
    first: int = 2**32 - 5 * STEP  # wraps soon
    report: float | None = None
    timeout: int = 60
    drop: frozenset[int] = frozenset()  # packets that get lost, by number


class RtspServer:
    """Plays one plan for each connection, in turn, and the last one again and again."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.requests: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live?token=secret"

    @property
    def methods(self) -> list[str]:
        return [request.partition(" ")[0] for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        playing: asyncio.Task[None] | None = None
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(request)
                method = request.partition(" ")[0]
                if method == "RTSP/1.0":
                    continue
                writer.write(self._answer(plan, method, request))
                if method == "PLAY":
                    playing = asyncio.create_task(self._play(plan, writer))
                    self._tasks.add(playing)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            if playing:
                playing.cancel()
            self._tasks.discard(task)
            writer.close()

    def _answer(self, plan: Plan, method: str, request: str) -> bytes:
        body = ""
        default = "RTSP/1.0 200 OK"
        if method == "OPTIONS":
            default += "\r\nPublic: DESCRIBE, SETUP, PLAY, GET_PARAMETER"
        if method == "SETUP":
            default += f"\r\nSession: 77aa;timeout={plan.timeout}\r\nTransport: RTP/AVP/TCP;unicast;interleaved=4-5"
        answer = plan.answers.get(method, default)
        if method == "DESCRIBE" and answer is default:
            body = (
                f"v=0\r\na=range:{plan.range}\r\nm=audio 0 RTP/AVP 0\r\na=control:sound\r\nm=video 0 RTP/AVP 96\r\n"
                f"a=rtpmap:96 {plan.encoding}/90000\r\na=framerate:25\r\na=control:track1\r\n"
            )
        sequence = next(line for line in request.split("\r\n") if line.lower().startswith("cseq"))
        length = f"\r\nContent-Length: {len(body)}" if body else ""
        return f"{answer}\r\n{sequence}{length}\r\n\r\n{body}".encode()

    async def _play(self, plan: Plan, writer: asyncio.StreamWriter) -> None:
        number = 0
        for index, picture in enumerate(plan.pictures):
            timestamp = plan.first + index * STEP
            if index == 1 and plan.report is not None:
                writer.write(interleaved(5, report(plan.report, plan.first)))
            payloads = [part for unit in units(picture) for part in fragments(unit)]
            for at, payload in enumerate(payloads, 1):
                packet = rtp(payload, 65_530 + number, timestamp, marker=at == len(payloads))
                if number not in plan.drop:
                    writer.write(interleaved(4, packet))
                number += 1
            await writer.drain()
        await self._end(plan, writer)

    async def _end(self, plan: Plan, writer: asyncio.StreamWriter) -> None:
        match plan.then:
            case "goodbye":
                writer.write(interleaved(5, report(time.time(), 0) + GOODBYE))
                await asyncio.sleep(60)
            case "garbage":
                writer.write(b"this is no RTSP\r\n\r\n")
                await asyncio.sleep(60)
            case "stall":
                await asyncio.sleep(60)
            case "trickle":
                with contextlib.suppress(ConnectionError):
                    while True:
                        writer.write(interleaved(5, report(time.time(), 0)))
                        await asyncio.sleep(0.1)
            case "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of nothing
                writer.transport.abort()
            case "close":
                writer.close()
