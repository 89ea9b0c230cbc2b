"""The registry over HTTP, for programs that do not speak gRPC: the same registry, the same checks, three routes."""

from registry_server.rest.listener import serving

__all__ = ["serving"]
