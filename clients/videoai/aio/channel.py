"""What both asyncio clients stand on: one channel, its life, and unary calls that raise the errors of videoai."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from videoai import channels, errors, health

if TYPE_CHECKING:
    from types import TracebackType

Request = TypeVar("Request")
Response = TypeVar("Response")


class Client:
    """An asynchronous context manager around one channel. To be made where an event loop runs."""

    def __init__(self, address: str, *, timeout_seconds: float = 10.0) -> None:
        """Connect, when first used, to `address`: "host:port" or "unix:path".

        `timeout_seconds` bounds each call that has one answer, retries included.
        """
        self.address = address
        self._timeout = timeout_seconds
        self._channel = grpc.aio.insecure_channel(channels.target(address), options=channels.options())
        self._closed = asyncio.Event()

    async def close(self) -> None:
        """Close the channel; calls that still run are cancelled, watches end."""
        self._closed.set()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def health(self, service: str = "") -> str:
        """Return what the server says of itself, or of one of its services: "SERVING", "NOT_SERVING", ..."""
        method = self._channel.unary_unary(
            health.METHOD, request_serializer=health.request, response_deserializer=health.status
        )
        return await self._call(method, service)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_seconds: float | None = None,
    ) -> Response:
        try:
            return await method(request, timeout=self._timeout if timeout_seconds is None else timeout_seconds)
        except grpc.RpcError as error:
            raise errors.from_grpc(error) from None
