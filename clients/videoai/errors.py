"""What the clients raise when a call fails.

VideoAIError
├── InvalidArgument       an argument is malformed; the message names it
├── NotFound              no such model, version or file, or nothing in production
├── AlreadyExists         the name and version are taken
├── FailedPrecondition    the state does not allow it: archived, in production, file changed
├── Aborted               another version is in production than was expected
├── OutOfRange            past the end
├── ResourceExhausted     a limit of the server is reached; the message names it
├── PermissionDenied      the server does not allow it
├── Unauthenticated       the server does not know who calls
├── Unavailable           the server cannot be reached, is shutting down, or has no version running
├── DeadlineExceeded      the answer did not come in time
├── Cancelled             the call was cancelled
├── DataLoss              data arrived damaged
├── Unimplemented         the server does not know the call
├── Internal              the server failed; its log says why
└── Unknown               the server failed without saying how

Each carries the gRPC status as `code`, the server's message as `details`, and as `retry_after_seconds` how long the
server asks to wait before the call is tried again; None where it does not say.
"""

# ruff: noqa: N818 - the names are those of the gRPC status codes.
from __future__ import annotations

from typing import Any, ClassVar, cast

import grpc

# In milliseconds; a negative number asks not to try again.
_PUSHBACK = "grpc-retry-pushback-ms"


class VideoAIError(Exception):
    """A call failed.

    `code` is the gRPC status, `details` the server's message for a person to read, `retry_after_seconds` the wait that
    the server asks for before the call is tried again; None where it does not say.
    """

    code: ClassVar[grpc.StatusCode]

    def __init__(self, details: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(details)
        self.details = details
        self.retry_after_seconds = retry_after_seconds


class InvalidArgument(VideoAIError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(VideoAIError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(VideoAIError):
    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(VideoAIError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(VideoAIError):
    code = grpc.StatusCode.ABORTED


class OutOfRange(VideoAIError):
    code = grpc.StatusCode.OUT_OF_RANGE


class ResourceExhausted(VideoAIError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class PermissionDenied(VideoAIError):
    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(VideoAIError):
    code = grpc.StatusCode.UNAUTHENTICATED


class Unavailable(VideoAIError):
    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(VideoAIError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(VideoAIError):
    code = grpc.StatusCode.CANCELLED


class DataLoss(VideoAIError):
    code = grpc.StatusCode.DATA_LOSS


class Unimplemented(VideoAIError):
    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(VideoAIError):
    code = grpc.StatusCode.INTERNAL


class Unknown(VideoAIError):
    code = grpc.StatusCode.UNKNOWN


BY_CODE = {kind.code: kind for kind in VideoAIError.__subclasses__()}


def from_grpc(error: grpc.RpcError) -> VideoAIError:
    """Return the error of this tree that says the same as `error`."""
    call = cast("grpc.Call", error)  # what a failed call raises is the call itself, sync and asyncio alike
    return from_status(call.code(), call.details(), call.trailing_metadata())


def from_status(code: grpc.StatusCode, details: str | None, trailing_metadata: Any = ()) -> VideoAIError:
    """Return the error of this tree for a status other than OK."""
    return BY_CODE[code](details or code.name, retry_after_seconds=_retry_after(trailing_metadata))


def _retry_after(trailing_metadata: Any) -> float | None:
    for key, value in trailing_metadata or ():
        if key == _PUSHBACK and isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value) / 1000
    return None
