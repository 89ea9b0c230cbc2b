"""The asyncio client of the inference server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

import grpc

from videoai import analysis, errors
from videoai.aio.channel import Client
from videoai.aio.upload import frames
from videoai.analysis import Analysis, Progress
from videoai.inference.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from types import TracebackType

    from videoai.aio.upload import AnyVideoSource
    from videoai.analysis import FrameOptions, GapHandler, PictureSource, SourceOptions, VideoOptions

    SourceMethod = grpc.aio.UnaryStreamMultiCallable[
        inference_pb2.AnalyzeSourceRequest, inference_pb2.AnalyzeSourceResponse
    ]


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
        return VideoAnalysis(frames(self._stub.AnalyzeVideo, config, source, progress), progress)

    def analyze_source(
        self,
        uri: str,
        model_name: str = "",
        *,
        on_gap: GapHandler | None = None,
        **options: Unpack[SourceOptions],
    ) -> VideoAnalysis:
        """Have the server read a source by itself and iterate over its frames' results; a camera's never end.

        `uri`: file:///absolute/path on the server's machine, or http(s)://, where the operator allows it.
        `on_gap` is called with each message about a gap in a live source, in order with the frames; `.gaps` has them
        too. Nothing is asked before the first frame is.
        """
        progress = Progress(on_gap)
        request = analysis.source_request(uri, model_name, options)
        return VideoAnalysis(_source_frames(self._stub.AnalyzeSource, request, progress), progress)

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


async def _source_frames(
    method: SourceMethod, request: inference_pb2.AnalyzeSourceRequest, progress: Progress
) -> AsyncGenerator[inference_pb2.FrameResult]:
    call = method(request)
    try:
        async for response in call:
            for frame in progress.take(response):
                yield frame
    except grpc.RpcError as error:
        raise errors.from_grpc(error) from None
    finally:
        call.cancel()
    progress.check_complete()
