"""When to try again: what a refused call carries in the trailing metadata of its status."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

# What gRPC's own retry policies obey.
PUSHBACK = "grpc-retry-pushback-ms"
DETAILS = "grpc-status-details-bin"

Metadata = tuple[tuple[str, str | bytes], ...]


def metadata(code: grpc.StatusCode, details: str, seconds: float) -> Metadata:
    """Ask callers to wait for `seconds`: as google.rpc.RetryInfo, and in the key that gRPC's retry policies read."""
    delay = Duration()
    delay.FromMilliseconds(round(seconds * 1000))
    info = Any()
    info.Pack(RetryInfo(retry_delay=delay))
    status = Status(code=code.value[0], message=details, details=[info])
    return (PUSHBACK, str(delay.ToMilliseconds())), (DETAILS, status.SerializeToString())
