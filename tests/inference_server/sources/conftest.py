"""An HTTP server whose every connection the tests script, and a decoder pool."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from inference_server.detection import Layout
from inference_server.sources import AllowedHosts, HostRule, Network, Patience, SourcePolicy, SourceStream
from inference_server.video import DecoderPool, StreamRequest, Target

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(data: bytes) -> bytes:
    """A response that is complete."""
    return HEAD + chunk(data) + b"0\r\n\r\n"


class Server:
    """Plays one script for each connection, in turn, and the last one again and again."""

    def __init__(self) -> None:
        self.scripts: list[Any] = []
        self.requests: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/live.ts"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            if isinstance(script, bytes):
                writer.write(script)
                await writer.drain()
            else:
                await script(writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees the connection break."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Seen:
    """What came out of a source; `events` has frames and gaps in order."""

    info: Any = None
    summary: Any = None
    frames: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)

    @property
    def gaps(self) -> list[Any]:
        return [event for event in self.events if event not in self.frames]

    @property
    def indices(self) -> list[int]:
        return [frame.frame_index for frame in self.frames]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
def http() -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(head=HEAD, chunk=chunk, whole=whole, reset=reset)


@pytest.fixture
def read_source() -> Any:
    """A function that reads a source to its end: frames, gaps and totals."""

    async def read(
        uri: str,
        request: StreamRequest | None = None,
        *,
        rules: tuple[str, ...] = ("127.0.0.1",),
        give_up: float = 20.0,
        max_reconnects: int | None = None,
        read_seconds: float = 5.0,
        connect_seconds: float = 10.0,
        resolve: Any = None,
        on_frame: Any = None,
        on_gap: Any = None,
        seen: Seen | None = None,
        pool: DecoderPool | None = None,
    ) -> Seen:
        seen = seen or Seen()
        parsed = [HostRule.parse(rule) for rule in rules]
        hosts = AllowedHosts(parsed, resolve) if resolve else AllowedHosts(parsed)
        source = SourcePolicy((), Network(hosts, connect_seconds, read_seconds)).source(uri)
        patience = Patience(give_up, max_reconnects)

        def note(gap: Any) -> None:
            seen.events.append(gap)
            if on_gap:
                on_gap(gap)

        async with DecoderPool() as decoders:
            target = Target(Layout(64, 64), 0)
            async with SourceStream(decoders, source, request or StreamRequest(), target, patience, note) as stream:
                seen.info = await stream.started()
                async for frame in stream:
                    seen.frames.append(frame)
                    seen.events.append(frame)
                    if on_frame:
                        await on_frame(stream, frame)
                    frame.release()
                seen.summary = stream.summary
        return seen

    return read
