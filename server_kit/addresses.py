"""Addresses to listen on: host:port or unix:path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """One address to listen on. Exactly one of (`host`, `port`) and `path` is meaningful; `path` is "" for TCP."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def target(self) -> str:
        """The address as gRPC and the user write it."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `host:port` (port 0 takes a free one; IPv6 in brackets) or `unix:path`.

    Raises ValueError saying what was expected.
    """
    expected = f"expected host:port or unix:path, got {text!r}"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ValueError(expected)
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or (":" in host and not bracketed):
        raise ValueError(expected)
    if int(port) > 65535:
        raise ValueError(f"expected a port of 0..65535, got {text!r}")
    return Address(host=host.strip("[]"), port=int(port))
