"""What can go wrong in the inference server, as plain exceptions; the service turns them into gRPC statuses.

InferenceError
├── InvalidField            a field of the request is malformed; names the field and what was expected
├── ModelNotServed          this server does not serve that model
├── ModelNotReady           a model is served, but no version of it runs
├── RawTensorsOnly          the version has no detections to give, only raw tensors, and they were not asked for
├── Overloaded              a limit of this server is reached; the message names the limit
├── QueueFull               more waits for the model than this server lets wait
├── DeadlinePassed          the caller's deadline passed before the session was free
├── ShuttingDown            this server is going away
├── NotImplementedYet       a part of the contract that this release does not have
├── ModelRefused            a version cannot be served: missing, changed, broken, or a layout nobody knows
├── DeviceUnavailable       the device asked for does not run sessions on this machine
└── VideoError              a video or picture cannot be analysed
    ├── UnsupportedVideo    a container, codec or pixel format that this server does not take
    ├── CorruptVideo        not a video, or so damaged that nothing of it decodes
    ├── InvalidPicture      a picture that does not decode or does not have the size it claims
    ├── VideoLimitExceeded  larger, longer or more deeply nested than this server allows
    └── DecoderFailed       the decoding process died or hung; the video may be to blame, the server goes on

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


class RawTensorsOnly(InferenceError):
    """The version that `model` names yields raw tensors and no detections."""

    def __init__(self, model: str) -> None:
        super().__init__(f"include_tensors: expected true, since {model} yields raw tensors and no detections")


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


class ShuttingDown(InferenceError):
    """This server is going away; another one, or this one later, can answer."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class NotImplementedYet(InferenceError):
    """A part of the contract that this release does not have; the message says what to do instead."""


class ModelRefused(InferenceError):
    """A version cannot be served; the message is the reason that the rollout shows."""


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


class VideoLimitExceeded(VideoError):
    """Larger or longer than this server allows; the message names the limit."""


class DecoderFailed(VideoError):
    """The process that decodes this video died or hung."""
