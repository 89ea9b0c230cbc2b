"""One AnalyzeVideo call for asyncio: the upload in a task of its own, the results as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

import grpc

from videoai import analysis, errors
from videoai.analysis import VideoSource

if TYPE_CHECKING:
    from videoai.analysis import Progress
    from videoai.inference.v1 import inference_pb2

    Method = grpc.aio.StreamStreamMultiCallable[analysis.Request, inference_pb2.AnalyzeVideoResponse]
    Stream = grpc.aio.StreamStreamCall[analysis.Request, inference_pb2.AnalyzeVideoResponse]

AnyVideoSource = VideoSource | AsyncIterable[bytes]

STATUS_SECONDS = 5.0


async def frames(
    method: Method, config: analysis.Request, source: AnyVideoSource, progress: Progress
) -> AsyncGenerator[inference_pb2.FrameResult]:
    """Send everything, yield each frame's result; raise what the server answers or the source raises."""
    call = method()
    upload = _Upload(call, config, source)
    try:
        async for response in call:
            for frame in progress.take(response):
                yield frame
    except grpc.RpcError as error:
        await upload.raise_for(error)
    except asyncio.CancelledError:
        upload.raise_failure()
        raise
    finally:
        call.cancel()
        await upload.stop()
    progress.check_complete()


class _Upload:
    """The sending half of a call.

    A write fails where the server ends the call before it has everything, and grpc.aio then gives the call the status
    INTERNAL: in place of the server's, if that has come already, or until that comes. So the upload is cancelled as
    soon as a status has come, and where a write failed before, the server's status is waited for.
    """

    def __init__(self, call: Stream, config: analysis.Request, source: AnyVideoSource) -> None:
        self._call = call
        self._write_failed = False
        self._statuses = 0
        self._overwritten = asyncio.Event()
        self._task = asyncio.create_task(self._send(config, source))
        call.add_done_callback(self._on_status)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def raise_failure(self) -> None:
        """Raise what the source raised, if it did."""
        if self._task.done() and not self._task.cancelled() and (failure := self._task.exception()):
            raise failure from None

    async def raise_for(self, error: grpc.RpcError) -> None:
        """Raise what the server said, if it was not that all is well."""
        if not self._write_failed:
            raise errors.from_grpc(error) from None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await self._overwritten.wait()
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            details, metadata = await self._call.details(), await self._call.trailing_metadata()
            raise errors.from_status(code, details, metadata) from None

    def _on_status(self, _: object) -> None:
        self._statuses += 1
        self._task.cancel()
        if self._statuses > 1:
            self._overwritten.set()

    async def _send(self, config: analysis.Request, source: AnyVideoSource) -> None:
        try:
            await self._write(config)
            async for data in _chunks(source):
                await self._write(analysis.chunk(data))
            await self._call.done_writing()
        except Exception:
            self._call.cancel()
            raise

    async def _write(self, request: analysis.Request) -> None:
        try:
            await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError):
            self._write_failed = True
            raise asyncio.CancelledError from None


async def _chunks(source: AnyVideoSource) -> AsyncIterator[bytes]:
    if isinstance(source, AsyncIterable):
        async for data in source:
            for piece in analysis.pieces(data):
                yield piece
    else:
        chunks = analysis.chunks(source)
        while data := await asyncio.to_thread(next, chunks, b""):  # no piece is empty
            yield data
