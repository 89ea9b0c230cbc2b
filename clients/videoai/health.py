"""grpc.health.v1.Health/Check in the little of it that is needed, so that the base install needs no package for it."""

from __future__ import annotations

METHOD = "/grpc.health.v1.Health/Check"

_STATUS = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


def request(service: str) -> bytes:
    """Encode HealthCheckRequest: field 1, the service's name of up to 127 bytes; empty asks for the whole server."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError(f"service: expected at most 127 bytes, got {len(name)}")
    return bytes([0x0A, len(name)]) + name if name else b""


def status(response: bytes) -> str:
    """Decode HealthCheckResponse: field 1, an enum; proto3 leaves it out where it is 0."""
    number = response[1] if response[:1] == b"\x08" else 0
    return _STATUS[number] if number < len(_STATUS) else "UNKNOWN"
