"""Uploads that pause: too long and they are ended, slowly on and on and they are served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpc import StatusCode as Code
from videoai.registry.v1 import registry_pb2 as pb

from tests.registry_server.conftest import model_bytes
from tests.registry_server.test_transfers import header, left, padded, parts, until, upload

PIECE = 1000
SHORTER, LONGER = 45.0, 61.0  # than the 60 s for which an upload may send nothing


@pytest.fixture
async def advance() -> Any:
    """Let the event loop's clock go on by so many seconds at once, in which nothing happens."""
    loop = asyncio.get_running_loop()
    skipped = 0.0
    real = loop.time

    def skip(seconds: float) -> None:
        nonlocal skipped
        skipped += seconds

    loop.time = lambda: real() + skipped  # type: ignore[method-assign]
    yield skip
    loop.time = real  # type: ignore[method-assign]


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


async def written(root: Any, size: int) -> None:
    await until(lambda: [path.stat().st_size for path in parts(root)] == [size])


async def send_some(client: Any, root: Any, data: bytes, count: int) -> Any:
    call = client.stub.UploadModel()
    await call.write(header(data))
    for number, piece in enumerate(list(pieces(data))[:count], start=1):
        await call.write(pb.UploadModelRequest(chunk=piece))
        await written(root, min(number * PIECE, len(data)))
    if not count:
        await until(lambda: parts(root))
    return call


async def run_out(call: Any, advance: Callable[[float], None]) -> None:
    """Let so much time pass that the upload has stalled, however late the server begins to count."""
    while not call.done():
        advance(LONGER)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("count", [0, 3])
async def test_one_that_stalls_gets_its_status_and_leaves_nothing(
    root: Any, serve: Any, fails: Any, advance: Callable[[float], None], count: int
) -> None:
    async with serve(root, max_uploads=1) as client:
        call = await send_some(client, root, padded(10_000), count)
        await run_out(call, advance)
        assert "nothing came for 60 s; nothing was kept" in await fails(call, Code.DEADLINE_EXCEEDED)
        await until(lambda: not parts(root))
        assert left(root) == []
        # Its place is free again.
        assert (await client.stub.UploadModel(upload(model_bytes()))).model.version == 1


async def test_one_that_says_all_but_not_that_it_is_all_stalls(
    root: Any, serve: Any, fails: Any, advance: Callable[[float], None]
) -> None:
    data = padded(2 * PIECE)
    async with serve(root) as client:
        call = await send_some(client, root, data, len(data) // PIECE + 1)
        await run_out(call, advance)
        await fails(call, Code.DEADLINE_EXCEEDED)
        assert left(root) == []


async def test_one_that_is_slow_but_moves_is_served(root: Any, serve: Any, advance: Callable[[float], None]) -> None:
    data = padded(10_000)
    async with serve(root) as client:
        call = client.stub.UploadModel()
        await call.write(header(data))
        for number, piece in enumerate(pieces(data), start=1):
            await until(lambda: parts(root))
            advance(SHORTER)
            await call.write(pb.UploadModelRequest(chunk=piece))
            await written(root, min(number * PIECE, len(data)))
        await call.done_writing()
        model = (await call).model
    assert (root.path / model.path).read_bytes() == data
    assert number * SHORTER > 2 * LONGER
