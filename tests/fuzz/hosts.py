"""A host that answers what it is told to, request by request, over HTTP and RTSP alike."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_CASE = re.compile(rb"[A-Z]+ \S*?/case-(\d+)[ /]")
_MOST_TIMES = 4  # that a script is played
_STALL_SECONDS = 30.0
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of nothing


@dataclass(frozen=True, slots=True)
class Script:
    """What is sent after each request of a connection; then `end`: close, reset or stall.

    `piece`: how many bytes are written at a time. `patience`: seconds that the next request may take; what has not come
    by then is not waited for, since whoever asks may be waiting, too.
    """

    replies: Sequence[bytes]
    end: str = "close"
    piece: int = 65_536
    patience: float = 30.0


_NONE = Script((b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",))


class Host:
    """Listens on this machine; use as an async context manager. `scripts`: by the number in the path, /case-N."""

    def __init__(self) -> None:
        self.scripts: dict[int, Script] = {}
        self._played: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, scheme: str, number: int) -> str:
        return f"{scheme}://127.0.0.1:{self.port}/case-{number}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            await self._play(reader, writer)
        self._tasks.discard(task)
        writer.close()

    def _next(self, number: int) -> Script:
        """A source that comes back after each gap could go on for ever."""
        self._played[number] += 1
        return self.scripts.get(number, _NONE) if self._played[number] <= _MOST_TIMES else _NONE

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = _CASE.match(await reader.readuntil(b"\r\n\r\n"))
        script = self._next(int(found[1]) if found else -1)
        for index, reply in enumerate(script.replies):
            if index:
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), script.patience)
            for at in range(0, len(reply), script.piece):
                writer.write(reply[at : at + script.piece])
                await writer.drain()
                await asyncio.sleep(0)  # lets what was written leave by itself
        if script.end == "stall":
            await asyncio.wait_for(reader.read(), _STALL_SECONDS)
        elif script.end == "reset":
            writer.get_extra_info("socket").setsockopt(1, 13, RESET)
            writer.transport.abort()
