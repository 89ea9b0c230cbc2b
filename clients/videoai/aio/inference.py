"""The asyncio client of the inference server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Self, Unpack, cast

import grpc

from videoai import analysis, errors
from videoai.aio.channel import Client
from videoai.analysis import Analysis, Progress, VideoSource
from videoai.inference.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from types import TracebackType

    from videoai.analysis import FrameOptions, PictureSource, VideoOptions

    Method = grpc.aio.StreamStreamMultiCallable[analysis.Request, analysis.Response]
    Stream = grpc.aio.StreamStreamCall[analysis.Request, analysis.Response]

AnyVideoSource = VideoSource | AsyncIterable[bytes]


class VideoAnalysis(Analysis):
    """Results of one video: `async for` frame. Leaving `async with`, or dropping it, cancels what still runs."""

    def __init__(self, frames: AsyncGenerator[inference_pb2.FrameResult], progress: Progress) -> None:
        super().__init__(progress)
        self._frames = frames

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> inference_pb2.FrameResult:
        return await anext(self._frames)

    async def close(self) -> None:
        """Cancel the analysis if it still runs."""
        await self._frames.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class InferenceClient(Client):
    """The inference server: video or pictures in, boxes out. Methods raise the errors of videoai.errors."""

    def __init__(self, address: str = "127.0.0.1:50052", *, timeout_seconds: float = 10.0) -> None:
        super().__init__(address, timeout_seconds=timeout_seconds)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    def analyze_video(
        self, source: AnyVideoSource, model_name: str = "", **options: Unpack[VideoOptions]
    ) -> VideoAnalysis:
        """Send an encoded video and iterate over its frames' results, which come while it is still being sent.

        `source`: a path, a file opened for reading bytes, the bytes themselves, or an iterable or async iterable of
        bytes. `model_name` may be empty if the server serves exactly one. Nothing is sent before the first frame is
        asked for. What `source` raises is raised here as it is.
        """
        progress = Progress()
        config = analysis.video_config(model_name, options)
        return VideoAnalysis(_frames(self._stub.AnalyzeVideo, config, source, progress), progress)

    async def analyze_frames(
        self,
        pictures: Sequence[PictureSource],
        model_name: str = "",
        *,
        timeout_seconds: float = 60.0,
        **options: Unpack[FrameOptions],
    ) -> list[inference_pb2.FrameResult]:
        """Analyse 1..64 pictures: JPEG or PNG files as bytes, or arrays H x W x 3 of uint8, RGB. Same order out."""
        request = analysis.frames_request(pictures, model_name, options)
        return list((await self._call(self._stub.AnalyzeFrames, request, timeout_seconds)).results)

    async def serving_state(self) -> inference_pb2.GetServingStateResponse:
        """Return what the server runs, on what, and how far it has come with what the registry told it."""
        return await self._call(self._stub.GetServingState, inference_pb2.GetServingStateRequest())


async def _frames(
    method: Method, config: analysis.Request, source: AnyVideoSource, progress: Progress
) -> AsyncGenerator[inference_pb2.FrameResult]:
    call = method()
    upload = asyncio.create_task(_upload(call, config, source))
    call.add_done_callback(_stop(upload))
    try:
        while (response := await _read(call, upload)) is not None:
            frame = progress.take(response)
            if frame is not None:
                yield frame
        progress.check_complete()
    finally:
        call.cancel()
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)


def _stop(upload: asyncio.Task[None]) -> Callable[[object], None]:
    """End the upload with its call; a write that failed after that would put INTERNAL in place of the call's status."""

    def stop(_: object) -> None:
        upload.cancel()

    return stop


async def _upload(call: Stream, config: analysis.Request, source: AnyVideoSource) -> None:
    """Send everything. What the source raises ends the call; what the call raises is the reader's to tell."""
    try:
        await call.write(config)
        async for data in _chunks(source):
            await call.write(analysis.chunk(data))
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return
    except Exception:
        call.cancel()
        raise


async def _read(call: Stream, upload: asyncio.Task[None]) -> analysis.Response | None:
    try:
        message = await call.read()
    except grpc.RpcError as error:
        raise errors.from_grpc(error) from None
    except asyncio.CancelledError:
        if upload.done() and not upload.cancelled() and (failure := upload.exception()):
            raise failure from None
        raise
    return None if message is grpc.aio.EOF else cast("analysis.Response", message)


async def _chunks(source: AnyVideoSource) -> AsyncIterator[bytes]:
    if isinstance(source, AsyncIterable):
        async for data in source:
            for piece in analysis.pieces(data):
                yield piece
    else:
        chunks = analysis.chunks(source)
        while data := await asyncio.to_thread(next, chunks, b""):  # no piece is empty
            yield data
