"""The gRPC face of the inference server: protobuf in, domain calls, protobuf out."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from videoai.inference.v1 import inference_pb2 as pb
from videoai.inference.v1 import inference_pb2_grpc

from inference_server.asking import Analysis, AnsweredFrame
from inference_server.detection import Classes, Detections, Options
from inference_server.errors import (
    CorruptVideo,
    DeadlinePassed,
    DecoderFailed,
    FrameNotFound,
    InferenceFailed,
    InvalidField,
    InvalidPicture,
    ModelNotReady,
    ModelNotServed,
    NotSupported,
    Overloaded,
    QueueFull,
    RawTensorsOnly,
    RegionExists,
    RegionUnknown,
    ShuttingDown,
    SourceNotAllowed,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
    TensorsOnly,
    TimedOut,
    UnsupportedVideo,
    VersionNotRunning,
    VideoLimitExceeded,
)
from inference_server.pipeline import (
    AnsweredFrames,
    Event,
    FinishedVideo,
    Pipeline,
    StartedVideo,
)
from inference_server.serving import ServedModel, ServedModels
from inference_server.sources import Gap, Patience, SourcePolicy
from inference_server.video import EncodedPicture, Picture, RawPicture, StreamRequest
from inference_server.video.values import MAX_FRAMES_PER_SECOND

SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name

ERROR_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidPicture: grpc.StatusCode.INVALID_ARGUMENT,
    UnsupportedVideo: grpc.StatusCode.INVALID_ARGUMENT,
    CorruptVideo: grpc.StatusCode.INVALID_ARGUMENT,
    FrameNotFound: grpc.StatusCode.INVALID_ARGUMENT,
    VideoLimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RegionUnknown: grpc.StatusCode.NOT_FOUND,
    RegionExists: grpc.StatusCode.ALREADY_EXISTS,
    NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ModelNotServed: grpc.StatusCode.NOT_FOUND,
    VersionNotRunning: grpc.StatusCode.NOT_FOUND,
    TensorsOnly: grpc.StatusCode.FAILED_PRECONDITION,
    InferenceFailed: grpc.StatusCode.INTERNAL,
    RawTensorsOnly: grpc.StatusCode.FAILED_PRECONDITION,
    ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    QueueFull: grpc.StatusCode.UNAVAILABLE,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    SourceNotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    SourceNotFound: grpc.StatusCode.NOT_FOUND,
    SourceRefused: grpc.StatusCode.FAILED_PRECONDITION,
    SourceUnavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    TimedOut: grpc.StatusCode.UNAVAILABLE,
    DecoderFailed: grpc.StatusCode.INTERNAL,
}

MAX_PICTURES = 64
MAX_TOGETHER = 64
_LAST_SECOND = 253_402_300_799.0  # of the year 9999
OPTIONS: tuple[Literal["confidence_threshold", "iou_threshold", "max_detections"], ...] = (
    "confidence_threshold",
    "iou_threshold",
    "max_detections",
)
DATATYPES = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL"}

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """What GetServingState says about the server itself."""

    instance_id: str
    registry: str
    registry_connected: Callable[[], bool]
    services: tuple[str, ...]
    decoder_sandbox: Callable[[], Collection[str]]


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """`videoai.inference.v1.InferenceService`."""

    def __init__(self, pipeline: Pipeline, models: ServedModels, sources: SourcePolicy, identity: Identity) -> None:
        self._pipeline = pipeline
        self._sources = sources
        self._models = models
        self._identity = identity

    async def AnalyzeVideo(  # noqa: N802 - named by the .proto
        self, request_iterator: AsyncIterator[pb.AnalyzeVideoRequest], context: Context
    ) -> AsyncIterator[pb.AnalyzeVideoResponse]:
        config = await _config(request_iterator)
        events = self._pipeline.analyze_video(
            config.model_name, _stream_request(config), _video_analysis(config), _chunks(request_iterator)
        )
        async with aclosing(events):
            async for event in events:
                yield pb.AnalyzeVideoResponse(**_result(event))

    async def AnalyzeSource(  # noqa: N802
        self, request: pb.AnalyzeSourceRequest, context: Context
    ) -> AsyncIterator[pb.AnalyzeSourceResponse]:
        config, source = request.config, self._sources.source(request.uri)
        patience = _patience(request, self._sources.give_up_seconds)
        events = self._pipeline.analyze_source(
            config.model_name, _stream_request(config), _video_analysis(config), source, patience
        )
        async with aclosing(events):
            async for event in events:
                yield pb.AnalyzeSourceResponse(**_result(event))

    async def AnalyzeFrames(self, request: pb.AnalyzeFramesRequest, context: Context) -> pb.AnalyzeFramesResponse:  # noqa: N802
        if not 1 <= len(request.frames) <= MAX_PICTURES:
            raise InvalidField("frames", f"1..{MAX_PICTURES} pictures, got {len(request.frames)}")
        pictures = [_picture(index, picture) for index, picture in enumerate(request.frames)]
        answered = await self._pipeline.analyze_pictures(request.model_name, _analysis(request), pictures)
        return pb.AnalyzeFramesResponse(results=[_frame(frame) for frame in answered])

    async def GetServingState(self, request: pb.GetServingStateRequest, context: Context) -> pb.GetServingStateResponse:  # noqa: N802
        return pb.GetServingStateResponse(
            instance_id=self._identity.instance_id,
            registry=self._identity.registry,
            registry_connected=self._identity.registry_connected(),
            models=[_served(model) for model in self._models],
            active_streams=self._pipeline.active_streams,
            services=self._identity.services,
            decoder_sandbox=self._identity.decoder_sandbox(),
            current_timestamp=_now(),
        )


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


async def _config(requests: AsyncIterator[pb.AnalyzeVideoRequest]) -> pb.AnalyzeConfig:
    async for request in requests:
        if request.WhichOneof("payload") == "config":
            return request.config
        break
    raise InvalidField("config", "the first message to hold the config")


async def _chunks(requests: AsyncIterator[pb.AnalyzeVideoRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("payload") != "chunk":
            raise InvalidField("chunk", "every message after the first to hold a chunk")
        if request.chunk:
            yield request.chunk


def _stream_request(config: pb.AnalyzeConfig) -> StreamRequest:
    sampling = config.WhichOneof("sampling")
    if sampling == "stride" and config.stride < 1:
        raise InvalidField("stride", f"1 or more, got {config.stride}")
    if sampling == "frames_per_second" and not (0 < config.frames_per_second <= MAX_FRAMES_PER_SECOND):
        raise InvalidField(
            "frames_per_second", f"more than 0, at most {MAX_FRAMES_PER_SECOND}, got {config.frames_per_second}"
        )
    if not 0 <= config.start_seconds < math.inf:
        raise InvalidField("start_seconds", f"0 or more, got {config.start_seconds}")
    end = config.end_seconds if config.HasField("end_seconds") else None
    if end is not None and not config.start_seconds < end < math.inf:
        raise InvalidField("end_seconds", f"more than start_seconds ({config.start_seconds}), got {end}")
    if config.delivery not in pb.Delivery.values():
        raise InvalidField("delivery", f"one of {', '.join(pb.Delivery.keys())}, got {config.delivery}")
    return StreamRequest(
        stride=config.stride if sampling == "stride" else 1,
        frames_per_second=config.frames_per_second if sampling == "frames_per_second" else None,
        start_seconds=config.start_seconds,
        end_seconds=end,
        max_frames=config.max_frames,
        latest=config.delivery == pb.DELIVERY_LATEST,
        resume_after_pts=config.resume_after_pts if config.HasField("resume_after_pts") else None,
    )


def _patience(request: pb.AnalyzeSourceRequest, limit: float) -> Patience:
    asked = request.give_up_seconds if request.HasField("give_up_seconds") else limit
    if not asked >= 0:
        raise InvalidField("give_up_seconds", f"0 or more, got {asked}")
    return Patience(min(asked, limit), request.max_reconnects if request.HasField("max_reconnects") else None)


def _analysis(request: pb.AnalyzeConfig | pb.AnalyzeFramesRequest) -> Analysis:
    chosen: dict[str, Any] = {field: getattr(request, field) for field in OPTIONS if request.HasField(field)}
    Options(**chosen)  # raises InvalidField before anything is decoded
    return Analysis(chosen, tuple(request.class_names), request.include_tensors)


def _video_analysis(config: pb.AnalyzeConfig) -> Analysis:
    return replace(_analysis(config), together=min(max(1, config.max_frames_per_response), MAX_TOGETHER))


def _picture(index: int, picture: pb.Picture) -> Picture:
    match picture.WhichOneof("content"):
        case "encoded":
            return EncodedPicture(picture.encoded)
        case "raw":
            raw = picture.raw
            expected = raw.width * raw.height * 3
            if not expected or len(raw.rgb) != expected:
                raise InvalidField(
                    f"frames[{index}].raw.rgb",
                    f"width x height x 3 = {raw.width} x {raw.height} x 3 bytes, got {len(raw.rgb)}",
                )
            return RawPicture(raw.width, raw.height, raw.rgb)
    raise InvalidField(f"frames[{index}]", "encoded or raw to be set")


def _result(event: Event) -> dict[str, Any]:
    match event:
        case StartedVideo():
            return {"started": _started(event)}
        case AnsweredFrames([frame]):
            return {"frame": _frame(frame)}
        case AnsweredFrames(frames):
            return {"frames": pb.FrameResults(frames=[_frame(frame) for frame in frames])}
        case Gap():
            return {"gap": _gap(event)}
        case FinishedVideo():
            return {"summary": _summary(event)}


def _started(event: StartedVideo) -> pb.Started:
    info, version = event.info, event.model.version
    return pb.Started(
        container=info.container,
        codec=info.codec,
        width=info.width,
        height=info.height,
        frame_rate=info.frame_rate,
        duration_seconds=info.duration_seconds,
        frame_count=info.frame_count,
        model_name=version.model_name,
        model_version=version.version,
    )


def _summary(event: FinishedVideo) -> pb.Summary:
    summary = event.summary
    return pb.Summary(
        frames_decoded=summary.frames_decoded,
        frames_analyzed=sum(event.frames_per_version.values()),
        frames_dropped=summary.frames_dropped,
        corrupt_packets=summary.corrupt_packets,
        frames_per_version=event.frames_per_version,
        bytes_received=summary.bytes_received,
        truncated=summary.truncated,
        gaps=summary.gaps,
        gap_seconds=summary.gap_seconds,
    )


def _gap(gap: Gap) -> pb.Gap:
    return pb.Gap(
        gap_index=gap.index,
        reason=gap.reason,
        seconds=gap.seconds,
        attempts=gap.attempts,
        resumed=gap.resumed,
        began=_timestamp(gap.began),
    )


def _frame(frame: AnsweredFrame) -> pb.FrameResult:
    model, answer = frame.model, frame.answer
    names = model.family.class_names
    result = pb.FrameResult(
        frame_index=frame.frame_index,
        pts=frame.pts,
        time_base=pb.Rational(numerator=frame.time_base[0], denominator=frame.time_base[1]),
        time_seconds=frame.time_seconds,
        width=frame.width,
        height=frame.height,
        model_name=model.version.model_name,
        model_version=model.version.version,
        model_sha256=model.sha256,
        tensors=[_tensor(name, array) for name, array in answer.outputs.items()],
        timings=pb.Timings(
            decode_seconds=frame.decode_seconds,
            prepare_seconds=frame.prepare_seconds,
            queue_seconds=answer.queue_seconds,
            inference_seconds=answer.inference_seconds,
            postprocess_seconds=answer.postprocess_seconds,
        ),
    )
    if frame.wall_clock is not None:
        result.wall_clock.CopyFrom(_timestamp(frame.wall_clock.seconds))
        result.wall_clock_source = (
            pb.WALL_CLOCK_SOURCE_CAMERA if frame.wall_clock.camera else pb.WALL_CLOCK_SOURCE_RECEIVED
        )
    match answer.found:
        case Detections() as found:
            result.detections.extend(_detections(found, names))
        case Classes() as found:
            result.classifications.extend(_classifications(found, names))
    return result


def _timestamp(seconds: float) -> Timestamp:
    """`seconds` since 1970; a camera's clock may say anything, so what a timestamp cannot hold becomes its limit."""
    microseconds = round(min(max(seconds, 0.0), _LAST_SECOND) * 1e6)
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def _detections(found: Detections, names: Sequence[str]) -> list[pb.Detection]:
    detections = [
        pb.Detection(
            box=pb.BoundingBox(x_min=box[0], y_min=box[1], x_max=box[2], y_max=box[3]),
            class_id=class_id,
            class_name=_class_name(names, class_id),
            score=score,
        )
        for box, score, class_id in zip(
            found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True
        )
    ]
    for index, detection in enumerate(detections):
        if found.keypoints is not None:
            points = found.keypoints[index].tolist()
            detection.keypoints.extend(pb.Keypoint(x=x, y=y, score=score) for x, y, score in points)
        if found.masks is not None:
            detection.mask.run_lengths.counts.extend(found.masks[index].tolist())
        if found.oriented_boxes is not None:
            x, y, width, height, angle = found.oriented_boxes[index].tolist()
            detection.oriented_box.MergeFrom(
                pb.OrientedBox(center_x=x, center_y=y, width=width, height=height, angle=angle)
            )
    return detections


def _classifications(found: Classes, names: Sequence[str]) -> list[pb.Classification]:
    return [
        pb.Classification(class_id=class_id, class_name=_class_name(names, class_id), score=score)
        for score, class_id in zip(found.scores.tolist(), found.class_ids.tolist(), strict=True)
    ]


def _class_name(names: Sequence[str], class_id: int) -> str:
    """What the model calls a class; some files name none, and their outputs tell of classes only as they come."""
    return names[class_id] if class_id < len(names) else f"class{class_id}"


def _tensor(name: str, array: NDArray[Any]) -> pb.Tensor:
    datatype = DATATYPES.get(array.dtype.name, array.dtype.name.upper())
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return pb.Tensor(name=name, datatype=datatype, shape=array.shape, data=little_endian.tobytes())


def _served(model: ServedModel) -> pb.ServedModel:
    served = pb.ServedModel(
        model_name=model.model_name,
        seen_version=model.seen_version,
        revision=model.revision,
        state=pb.ServingState.Value(f"SERVING_STATE_{model.state}"),
        last_error=model.last_error,
        frames_answered=model.frames_answered,
        frames_failed=model.frames_failed,
        requests_answered=model.requests_answered,
        requests_failed=model.requests_failed,
        swaps=model.swaps,
        cleared=model.cleared,
    )
    if model.running is not None:
        running = model.running.model
        served.running_version = running.version.version
        served.running_sha256 = running.sha256
        served.device = running.device
        served.provider = running.provider
        served.family = running.family.name
        served.class_names.extend(running.family.class_names)
    return served
