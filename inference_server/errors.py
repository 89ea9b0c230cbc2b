"""What can go wrong in the inference server, as plain exceptions; the service turns them into gRPC statuses.

InferenceError
├── InvalidField            a field of the request is malformed; names the field and what was expected
├── ModelNotServed          this server does not serve that model
├── ModelNotReady           a model is served, but no version of it runs
├── VersionNotRunning       another version of the model runs than the one asked for
├── TensorsOnly             the version takes no pictures, only tensors
├── InferenceFailed         the version does not run with these inputs
├── RawTensorsOnly          the version has no detections to give, only raw tensors, and they were not asked for
├── RegionUnknown           no shared memory of that name is registered
├── RegionExists            shared memory of that name is registered already
├── NotSupported            a part of a protocol that this server does not have, or that its operator has not allowed
├── Overloaded              a limit of this server is reached; the message names the limit
├── QueueFull               more waits for the model than this server lets wait
├── DeadlinePassed          the caller's deadline passed before the session was free
│   └── TimedOut            so did the time that the request itself allowed
├── ShuttingDown            this server is going away
├── ModelRefused            a version cannot be served: missing, changed, broken, or a layout nobody knows
│   └── NotPrepared         this time: what prepared it was ended from outside
├── PreparationStopped      a version is not wanted any more, so what prepared it was ended
├── DeviceUnavailable       the device asked for does not run sessions on this machine
├── SourceError             a source that the server was to read by itself cannot be read
│   ├── SourceNotAllowed    the operator does not allow it
│   ├── SourceNotFound      it is allowed, but not there
│   ├── SourceRefused       it is there and does not want to be read like this
│   └── SourceUnavailable   it cannot be reached, or has been away for too long
└── VideoError              a video or picture cannot be analysed
    ├── UnsupportedVideo    a container, codec or pixel format that this server does not take
    ├── CorruptVideo        not a video, or so damaged that nothing of it decodes
    ├── InvalidPicture      a picture that does not decode or does not have the size it claims
    ├── FrameNotFound       the frame to resume after is not in the video
    ├── VideoLimitExceeded  larger, longer, slower or more deeply nested than this server allows
    └── DecoderFailed       the decoding process died; the video may be to blame, the server goes on

Every message is for a person to read: what was seen, and what was expected instead.
"""

# ruff: noqa: N818 - each name says what happened.
from __future__ import annotations


class InferenceError(Exception):
    """Anything that this package raises on purpose."""


class InvalidField(InferenceError):
    """`field` of the request is malformed; `expected` says what it should be and what came."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}")
        self.field = field


class ModelNotServed(InferenceError):
    """No model of that name is served here; `served` lists those that are."""

    def __init__(self, model_name: str, served: str) -> None:
        super().__init__(f"model {model_name!r} is not served here; served: {served}")


class ModelNotReady(InferenceError):
    """The model is served but no version of it runs; `reason` says why, if that is known."""

    def __init__(self, model_name: str, reason: str = "") -> None:
        why = reason or "the registry has announced none that could be loaded yet"
        super().__init__(f"no version of model {model_name!r} is running: {why}")


class VersionNotRunning(InferenceError):
    """Another version of the model runs, or none, than the one that was asked for."""

    def __init__(self, model_name: str, version: int, running: int) -> None:
        super().__init__(f"version {version} of model {model_name!r} is not running; version {running} is")


class TensorsOnly(InferenceError):
    """The version that `model` names takes tensors and no pictures."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} takes tensors and no pictures: send them with ModelInfer")


class InferenceFailed(InferenceError):
    """The version does not run with the inputs that were sent; the message is the runtime's."""


class RawTensorsOnly(InferenceError):
    """The version that `model` names yields raw tensors and no detections."""

    def __init__(self, model: str) -> None:
        super().__init__(f"include_tensors: expected true, since {model} yields raw tensors and no detections")


class RegionUnknown(InferenceError):
    """No region of shared memory of that name is registered."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no shared memory region {name[:200]!r} is registered")


class RegionExists(InferenceError):
    """A region of shared memory of that name is registered already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"shared memory region {name[:200]!r} is registered already: unregister it first")


class NotSupported(InferenceError):
    """A part of a protocol that this server does not have, or that its operator has not allowed."""


class Overloaded(InferenceError):
    """A limit of this server is reached; the message names it. Callers are asked to wait so long before they retry."""

    retry_after_seconds = 1.0


class QueueFull(InferenceError):
    """So much waits for the model that more would only wait longer; another replica, or this one later, can answer."""

    retry_after_seconds = 0.1

    def __init__(self, model_name: str, limit: int) -> None:
        super().__init__(f"max-queue: {limit} rows wait for model {model_name!r}, the limit of this server; try again")


class DeadlinePassed(InferenceError):
    """The caller's deadline passed before its work began."""


class TimedOut(DeadlinePassed):
    """The time that the request allowed for waiting passed before its work began."""


class ShuttingDown(InferenceError):
    """This server is going away; another one, or this one later, can answer."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class SourceError(InferenceError):
    """A source cannot be read. No message has more of its address than scheme, host and port."""


class SourceNotAllowed(SourceError):
    """The operator does not allow this source; the message does not say whether it exists."""


class SourceNotFound(SourceError):
    """The source is allowed, but there is nothing."""


class SourceRefused(SourceError):
    """The source answers, but does not hand out a video."""


class SourceUnavailable(SourceError):
    """The source cannot be reached, broke off, or has been away for too long."""


class ModelRefused(InferenceError):
    """A version cannot be served; the message is the reason that the rollout shows."""


class NotPrepared(ModelRefused):
    """What prepared a version was ended from outside, twice; another time it may be prepared."""


class PreparationStopped(InferenceError):
    """A version is not wanted any more, and was not prepared to the end."""


class DeviceUnavailable(InferenceError):
    """The device that was asked for does not run sessions on this machine; the message says what is missing."""


class VideoError(InferenceError):
    """A video or picture cannot be analysed."""


class UnsupportedVideo(VideoError):
    """A container, codec or pixel format that this server does not take."""


class CorruptVideo(VideoError):
    """Not a video, or so damaged that nothing of it decodes."""


class InvalidPicture(VideoError):
    """A picture that does not decode, or that does not have the size it claims."""


class FrameNotFound(VideoError):
    """The frame to resume after is not in the video; the message names its timestamp."""


class VideoLimitExceeded(VideoError):
    """Larger, longer or slower to decode than this server allows; the message names the limit."""


class DecoderFailed(VideoError):
    """The process that decodes this video died."""
