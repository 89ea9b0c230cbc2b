"""How both clients reach a server: addresses, channel options, which calls gRPC itself retries."""

from __future__ import annotations

import json
import re
from typing import Final

CHUNK_BYTES: Final = 256 * 1024
MAX_RESPONSE_BYTES: Final = 64 * 2**20

# Calls that may be sent twice: they read, they set something to a given value, or they carry a request_id.
REPEATABLE: Final = {
    "videoai.registry.v1.ModelRegistryService": (
        "RegisterModel",
        "GetModel",
        "ListModels",
        "ActivateModelVersion",
        "UpdateModelMetadata",
        "GetProductionModel",
        "ReportModelState",
        "GetRollout",
        "ListActivations",
        "GetRegistryState",
    ),
    "videoai.inference.v1.InferenceService": ("AnalyzeFrames", "GetServingState"),
    "grpc.health.v1.Health": ("Check",),
}

_RETRY_POLICY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


def target(address: str) -> str:
    """Return `address` ("host:port", "[ipv6]:port" or "unix:path") as gRPC takes it; ValueError for anything else."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"address: expected host:port or unix:path, got {address!r}")
    return address


def options() -> list[tuple[str, str | int]]:
    """Channel options, for a sync and an asyncio channel alike."""
    return [
        ("grpc.service_config", _service_config()),
        # A request may hold raw pictures; how much is too much is the server's to say.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        # Notice within half a minute that the other machine is gone.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Find a restarted server soon.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # The servers are the caller's own; a proxy for the web does not lead to them.
        ("grpc.enable_http_proxy", 0),
    ]


def _service_config() -> str:
    names = [{"service": service, "method": method} for service, methods in REPEATABLE.items() for method in methods]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]})
