"""Requests and results of analysis, for the sync and the asyncio clients alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypedDict, cast

from videoai import errors
from videoai.channels import CHUNK_BYTES
from videoai.inference.v1 import inference_pb2

MAX_FRAMES_PER_RESPONSE = 16

Response = inference_pb2.AnalyzeVideoResponse | inference_pb2.AnalyzeSourceResponse
GapHandler = Callable[[inference_pb2.Gap], object]
Request = inference_pb2.AnalyzeVideoRequest


class FrameOptions(TypedDict, total=False):
    """What may be reported; the defaults are the server's."""

    confidence_threshold: float  # lowest score reported, 0..1
    iou_threshold: float  # boxes of a class that overlap a better one by more are suppressed, 0..1
    max_detections: int  # at most so many for a picture, best first, 1..10000
    class_names: Sequence[str]  # only these
    include_tensors: bool  # also return the raw outputs


class VideoOptions(FrameOptions, total=False):
    """Which frames of a video to analyse, and what may be reported."""

    stride: int  # every n-th decoded frame, >= 1
    frames_per_second: float  # at most so many for a second of video, > 0; not together with stride
    start_seconds: float  # leave out frames before, >= 0
    end_seconds: float  # leave out frames at or after, > start_seconds
    max_frames: int  # stop after so many; 0 = no limit
    delivery: inference_pb2.Delivery.ValueType
    resume_after_pts: int  # go on after the frame with this pts, that of the last result of an analysis that broke off
    max_frames_per_response: int  # so many may come together; 1 = each as soon as it can; 16 by default


class SourceOptions(VideoOptions, total=False):
    """The same for a source that the server reads by itself, and how hard it is to try when a live one breaks off."""

    max_reconnects: int  # attempts to connect again in one gap; 0: none
    give_up_seconds: float  # longest gap; the server has a limit of its own


class PixelArray(Protocol):
    """What is needed of a numpy array, H x W x 3, uint8, RGB."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> object: ...
    def tobytes(self) -> bytes: ...


class Readable(Protocol):
    """What is needed of a file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


PictureSource = bytes | PixelArray
VideoSource = str | os.PathLike[str] | bytes | Readable | Iterable[bytes]


_PATIENCE = SourceOptions.__optional_keys__ - VideoOptions.__optional_keys__


class Progress:
    """What a running analysis has told about itself so far."""

    def __init__(self, on_gap: GapHandler | None = None) -> None:
        self.started: inference_pb2.Started | None = None
        self.summary: inference_pb2.Summary | None = None
        self.gaps: list[inference_pb2.Gap] = []
        self._on_gap = on_gap

    def take(self, response: Response) -> Sequence[inference_pb2.FrameResult]:
        """Return the frames that `response` carries; keep anything else."""
        if isinstance(response, inference_pb2.AnalyzeSourceResponse) and response.HasField("gap"):
            self._take_gap(response.gap)
        match response.WhichOneof("result"):
            case "frame":
                return (response.frame,)
            case "frames":
                return response.frames.frames
            case "started":
                self.started = response.started
            case "summary":
                self.summary = response.summary
        return ()

    def _take_gap(self, gap: inference_pb2.Gap) -> None:
        self.gaps[gap.gap_index :] = [gap]
        if self._on_gap is not None:
            self._on_gap(gap)

    def check_complete(self) -> None:
        if self.summary is None:
            raise errors.Internal("the server ended the results without a summary")


class Analysis:
    """Results of one video: iterate for the frames."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def started(self) -> inference_pb2.Started:
        """What was recognised of the video; there from the first frame on, before that RuntimeError."""
        if self._progress.started is None:
            raise RuntimeError("started: the server has not yet recognised the video, read the first frame first")
        return self._progress.started

    @property
    def gaps(self) -> list[inference_pb2.Gap]:
        """Gaps of a live source so far, each as it was told last; the last one may still go on."""
        return list(self._progress.gaps)

    @property
    def summary(self) -> inference_pb2.Summary:
        """Totals; there after the last frame, before that RuntimeError."""
        if self._progress.summary is None:
            raise RuntimeError("summary: the analysis has not ended, read all frames first")
        return self._progress.summary


def video_config(model_name: str, options: VideoOptions) -> Request:
    """Return the first message of an upload."""
    return Request(config=_config(model_name, options))


def source_request(uri: str, model_name: str, options: SourceOptions) -> inference_pb2.AnalyzeSourceRequest:
    """Return the request for a source that the server reads by itself."""
    how = cast("VideoOptions", {name: value for name, value in options.items() if name not in _PATIENCE})
    request = inference_pb2.AnalyzeSourceRequest(uri=uri, config=_config(model_name, how))
    if "max_reconnects" in options:
        request.max_reconnects = options["max_reconnects"]
    if "give_up_seconds" in options:
        request.give_up_seconds = options["give_up_seconds"]
    return request


def _config(model_name: str, options: VideoOptions) -> inference_pb2.AnalyzeConfig:
    if "stride" in options and "frames_per_second" in options:
        raise ValueError("stride, frames_per_second: expected at most one of them, got both")
    options = {"max_frames_per_response": MAX_FRAMES_PER_RESPONSE, **options}
    return inference_pb2.AnalyzeConfig(model_name=model_name, **options)


def chunk(data: bytes) -> Request:
    """Return one further message of an upload."""
    return Request(chunk=data)


def chunks(source: VideoSource) -> Iterator[bytes]:
    """Yield the bytes of `source` in pieces that fit into one message."""
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            yield from _read(file)
    elif isinstance(source, bytes):
        yield from pieces(source)
    elif isinstance(source, Iterable) and not hasattr(source, "read"):
        for data in source:
            yield from pieces(data)
    else:
        yield from _read(cast("Readable", source))


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut `data` into pieces that fit into one message; nothing for nothing."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"source: expected bytes, got {type(data).__name__}")
    for start in range(0, len(data), CHUNK_BYTES):
        yield bytes(data[start : start + CHUNK_BYTES])


def _read(file: Readable) -> Iterator[bytes]:
    while data := file.read(CHUNK_BYTES):
        yield from pieces(data)


def frames_request(
    pictures: Sequence[PictureSource], model_name: str, options: FrameOptions
) -> inference_pb2.AnalyzeFramesRequest:
    """Return the request for `pictures`: JPEG or PNG files as bytes, or arrays H x W x 3 of uint8, RGB."""
    frames = [_picture(source, index) for index, source in enumerate(pictures)]
    return inference_pb2.AnalyzeFramesRequest(model_name=model_name, frames=frames, **options)


def _picture(source: PictureSource, index: int) -> inference_pb2.Picture:
    if isinstance(source, bytes | bytearray | memoryview):
        return inference_pb2.Picture(encoded=bytes(source))
    shape, dtype = tuple(source.shape), str(source.dtype)
    if len(shape) != 3 or shape[2] != 3 or dtype != "uint8":
        raise ValueError(
            f"pictures[{index}]: expected H x W x 3 of uint8, got {' x '.join(map(str, shape))} of {dtype}"
        )
    height, width, _ = shape
    return inference_pb2.Picture(raw=inference_pb2.RawPicture(width=width, height=height, rgb=source.tobytes()))
