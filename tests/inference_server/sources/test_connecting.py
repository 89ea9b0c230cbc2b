"""Connections to sources, with the event loop that the server runs on and with Python's own."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from inference_server.sources.connecting import Link
from inference_server.sources.source import SourceLost


async def write_to_a_host_that_is_gone() -> None:
    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        link = Link(reader, writer, read_seconds=5)
        with pytest.raises(SourceLost):
            await link.read()
        await link.write(b"TEARDOWN")


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_connection_that_the_host_has_reset_is_lost_when_it_is_written_to(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner, pytest.raises(SourceLost, match="the connection broke"):
        runner.run(write_to_a_host_that_is_gone())
